//! What to fetch before it is asked for: a pure state machine.
