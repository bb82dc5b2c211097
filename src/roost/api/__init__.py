"""What travels between programs: the shapes of REST requests and answers. No logic."""
