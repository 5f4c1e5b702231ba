"""Pure values and pure functions: nothing in here touches the world."""
