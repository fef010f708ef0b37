"""The approximate indexes of the generations: looked at, judged and rebuilt."""
