//! No input makes the compiler panic, and every diagnostic points into its file.
