"""What is served: cells, networks built of them, and the card that describes an exported one."""
