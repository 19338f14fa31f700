// Package rules holds the conditions of a pipeline: the expression language of rules:if, the globs of changes and exists, and
// what a rule's clauses come to for an event, with the reasons. It is pure.
package rules
