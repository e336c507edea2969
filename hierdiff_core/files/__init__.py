"""Files that appear whole: sets of pictures, and what belongs to them."""
