"""Plans and generates the programs that move a map's contents into another layout."""
