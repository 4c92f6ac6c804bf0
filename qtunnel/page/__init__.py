"""The page to look at: what the status says, as a picture and in words, live in a browser."""
