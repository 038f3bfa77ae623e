"""Does a screen find biology? Regulators planted in drawn cells, and known regulators in real myoblasts (docs/biology.md)."""
