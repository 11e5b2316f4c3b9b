//! The engine's odd sides, provoked from inside.
