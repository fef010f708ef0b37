"""What searching needs beside the store: the vectors of queries."""
