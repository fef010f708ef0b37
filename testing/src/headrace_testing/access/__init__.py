"""What readers may see, computed in plain Python, to compare the routes with."""
