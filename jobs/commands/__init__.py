"""The verbs of the command `rankshift`, by what they are about. Each reads its options and calls the room that does it."""
