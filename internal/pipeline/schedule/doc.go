// Package schedule decides what each job of a graph does next: (state, event) -> state, with GitLab's composite statuses. It is pure.
package schedule
