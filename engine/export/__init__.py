"""What a finished run is turned into, so that other programs can use it. One module a target; nothing here shows anything."""
