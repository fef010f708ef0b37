"""The process of one stage: its lanes, its status server, and the check of the topic ``control``."""
