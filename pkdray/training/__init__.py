"""Training: one loop for teachers, T-Nets and students."""
