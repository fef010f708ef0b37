"""The process of one stage: its lanes, its status server, and the guard of the topic `control`."""
