// Package compile makes the graph of a configuration for one event, and tells why each job is in it or not. It is pure.
//
//	expand     parallel and parallel:matrix: of one job several, with their names; needs name the jobs of the graph
//	check      what no event can make right: stages, needs, dependencies, environments, expressions
//	workflow   does this event make a pipeline, and with which variables
//	decide     the first rule that matches, or only and except: which jobs run, and how
//	link       needs and dependencies among the jobs that run
//	finish     variables, environment, resource group and tags of each
//
// [Compile] does it all for an event; [Lint] does what needs none, and looks for traps: what works but is seldom meant.
package compile
