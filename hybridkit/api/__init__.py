"""What `import hybridkit` offers."""
