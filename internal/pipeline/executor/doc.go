// Package executor runs one job. Every executor passes the same conformance suite.
package executor
