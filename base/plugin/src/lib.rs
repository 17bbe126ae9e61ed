//! Plugin registrations, the typed dependency graph and its phases; a failed plugin is recorded and skipped.
