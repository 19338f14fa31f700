package conformance

import (
	"strconv"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
)

// scripts are about how commands run.
var scripts = []testCase{
	{name: "success", job: script("echo one", "echo two"), has: []string{"$ echo one", "one", "$ echo two", "two", "Job succeeded"}},
	{name: "exit code", job: script("exit 3", "echo never"), code: 3, hasNot: []string{"never"}, has: []string{"ERROR: Job failed: exit code 3"}},
	{name: "exit 0 ends a script", job: script("exit 0", "echo never"), hasNot: []string{"never"}},
	{name: "command not found", job: script("no-such-command-here"), code: 127},
	{name: "not executable", job: script("echo x > file", "./file"), code: 126},
	{name: "killed by a signal", job: script("kill -9 $$"), code: 137},
	{name: "a child killed by a signal", job: script("bash -c 'kill -15 $$'"), code: 143},
	{name: "errexit between commands", job: script("echo one", "false", "echo never"), code: 1, has: []string{"one", "$ false"}, hasNot: []string{"never"}},
	{name: "errexit in a command", job: script("echo one\nfalse\necho ne''ver"), code: 1, has: []string{"one"}, hasNot: []string{"never"}},
	{name: "errexit in a subshell", job: script("(false; echo ne''ver)"), code: 1, hasNot: []string{"\nnever"}},
	{name: "errexit spares conditions", job: script("false || echo or", "if false; then :; fi", "! true\ntrue"), has: []string{"or"}},
	{name: "pipefail", job: script("false | true"), code: 1},
	{name: "no nounset", job: script(`echo "[$UNSET_VARIABLE]"`), has: []string{"[]"}},
	{name: "no noclobber", job: script("echo a > f", "echo b > f", "cat f"), has: []string{"b"}},
	{name: "the last command counts after set +e", job: script("set +e", "false"), code: 1},
	{name: "syntax error", job: script("echo one", "if then fi"), code: 2},
	{name: "one shell for before_script and script", job: executor.Job{Job: pipeline.Job{
		BeforeScript: []string{"X=kept", "mkdir -p sub", "cd sub", "f() { echo called; }"}, Script: []string{"echo $X", "f", `basename "$PWD"`}}},
		has: []string{"$ X=kept", "$ echo $X", "kept", "called", "sub"}},
	{name: "before_script fails", job: executor.Job{Job: pipeline.Job{BeforeScript: []string{"exit 4"}, Script: []string{"echo never"}}}, code: 4, hasNot: []string{"never"}},
	{name: "several lines are collapsed", job: script("echo one\necho two"), has: []string{"$ echo one # collapsed multi-line command", "one", "two"}, hasNot: []string{"$ echo two"}},
	{name: "a here-document", job: script("cat <<EOF\nline $((1+1))\n  indented\nEOF\n"), has: []string{"line 2", "  indented"}},
	{name: "a comment at the end", job: script("echo one # a comment", "echo two"), has: []string{"one", "two"}},
	{name: "commands are echoed as they are written", job: script(`echo 'it'"'"'s' "\$HOME" \\ %s %% '$(x)' ünï`),
		has: []string{`$ echo 'it'"'"'s' "\$HOME" \\ %s %% '$(x)' ünï`, `it's $HOME \ %s %% $(x) ünï`}},
	{name: "commands are echoed in green", job: script("true"), raw: []string{"\x1b[32;1m$ true\x1b[0;m\n"}},
	{name: "an empty command", job: script("", "  \n", "echo one"), has: []string{"one"}},
	{name: "a long script", job: script(": "+strings.Repeat("x", 300<<10), "echo end"), has: []string{"end"}},
	{name: "many commands", job: script(many(2000)...), has: []string{"$ echo 1999", "1999"}},
	{name: "standard input is empty", job: script("cat", "read x || echo nothing to read"), has: []string{"nothing to read"}},
	{name: "no terminal", job: script("[ -t 0 ] || [ -t 1 ] || echo none", "(: < /dev/tty) 2>/dev/null || echo no tty"), has: []string{"none", "no tty"}},
	{name: "the working directory", job: script(`[ "$PWD" = "$CI_PROJECT_DIR" ] && [ "$(pwd -P)" = "$(cd "$CI_PROJECT_DIR" && pwd -P)" ]`)},
	{name: "what runs in the background does not hold up the job", job: script("sleep 60 &", "echo on"), has: []string{"on"}},
	{name: "exec replaces the shell", job: script("exec bash -c 'exit 9'"), code: 9},
	{name: "CI_DEBUG_TRACE", job: with(script("echo one"), pipeline.Variable{Name: "CI_DEBUG_TRACE", Value: "true"}), has: []string{"+ echo one", "one"}},
	{name: "sections of commands", job: with(script("echo one\necho two"), pipeline.Variable{Name: "FF_SCRIPT_SECTIONS", Value: "true"}),
		has: []string{"$ echo one", "echo two", "one", "two"}, raw: []string{"[hide_duration=true,collapsed=true]\r\x1b[0K"}},
	{name: "steps", job: executor.Job{Job: pipeline.Job{Run: []pipeline.Step{
		{Name: "first", Script: "X=lost; cd /; echo \"$A\"", Env: map[string]string{"A": "it's a"}}, {Script: `echo "[$X$A]" && [ "$PWD" = "$CI_PROJECT_DIR" ]`}}}},
		has: []string{"$ first", "it's a", "$ step_2", "[]"}},
	{name: "a step fails", job: executor.Job{Job: pipeline.Job{Run: []pipeline.Step{{Name: "one", Script: "exit 6"}, {Name: "two", Script: "echo never"}}}}, code: 6, hasNot: []string{"never"}},
}

func many(n int) []string {
	commands := make([]string, n)
	for i := range commands {
		commands[i] = "echo " + strconv.Itoa(i)
	}
	return commands
}

// variables are about what a job finds in its environment.
var variables = []testCase{
	{name: "variables", job: with(script(`echo "[$A] [$B]"`), pipeline.Variable{Name: "A", Value: "one"}, pipeline.Variable{Name: "B", Value: "it's \"b\"\n$"}, pipeline.Variable{Name: "A", Value: "two"}),
		has: []string{"[two] [it's \"b\"", "$]"}},
	{name: "references are expanded once", job: with(script(`printf '%s\n' "$B" "$C" "$D" "$E"`), pipeline.Variable{Name: "A", Value: "a"}, pipeline.Variable{Name: "B", Value: "$A-${A}-$UNKNOWN-$$A"},
		pipeline.Variable{Name: "C", Value: "$B"}, pipeline.Variable{Name: "D", Value: "$A", Raw: true}, pipeline.Variable{Name: "E", Value: "$CI_PROJECT_DIR/x"}),
		has: []string{"a-a--$A", "$A-${A}-$UNKNOWN-$$A", "$A"}},
	{name: "file variables", job: with(script(`cat "$F"`, `stat -c %a "$F"`, `echo "$G" | grep -c "^$F$"`), pipeline.Variable{Name: "F", Value: "content of $A\n", File: true}, pipeline.Variable{Name: "A", Value: "a"}, pipeline.Variable{Name: "G", Value: "$F"}),
		has: []string{"content of a", "600", "1"}},
	{name: "variables of the runner", job: executor.Job{ID: 42, Slot: 7, Job: pipeline.Job{Timeout: pipeline.Duration(90e9), Script: []string{
		`echo "$GITLAB_CI $CI $CI_SERVER $CI_JOB_ID $CI_JOB_TIMEOUT $CI_JOB_STATUS $CI_CONCURRENT_ID"`,
		`[ -n "$CI_BUILDS_DIR" ] && [ -n "$CI_RUNNER_EXECUTABLE_ARCH" ] && [ -n "$CI_JOB_STARTED_AT" ] && [ -n "$CI_SHARED_ENVIRONMENT$CI_DISPOSABLE_ENVIRONMENT" ]`}}},
		has: []string{"true true yes 42 90 running 7"}},
	{name: "a user's value before the runner's", job: with(script("echo $CI_SERVER $CI_JOB_STATUS"), pipeline.Variable{Name: "CI_SERVER", Value: "mine", Origin: pipeline.OriginJob},
		pipeline.Variable{Name: "CI_JOB_STATUS", Value: "guessed", Origin: pipeline.OriginPredefined}), has: []string{"mine running"}},
	{name: "home and path", job: script(`[ -n "$HOME" ] && [ -n "$PATH" ]`)},
	{name: "a name that no environment can hold", job: with(script("echo never"), pipeline.Variable{Name: "A=B", Value: "x"}), code: executor.NoExitCode, reason: pipeline.ConfigurationError, hasNot: []string{"never"}},
	{name: "a value that no environment can hold", job: with(script("echo never"), pipeline.Variable{Name: "A", Value: "x\x00"}), code: executor.NoExitCode, reason: pipeline.ConfigurationError, hasNot: []string{"never"}},
	{name: "a command that no shell can read", job: script("echo a\x00b"), code: executor.NoExitCode, reason: pipeline.ConfigurationError},
}

// afterScripts are about after_script.
var afterScripts = []testCase{
	{name: "after_script after a success", job: after(script("echo script"), "echo after: $CI_JOB_STATUS"), has: []string{"script", "$ echo after: $CI_JOB_STATUS", "after: success", "Job succeeded"}},
	{name: "after_script after a failure", job: after(script("exit 5"), "echo after: $CI_JOB_STATUS"), code: 5, has: []string{"after: failed"}},
	{name: "after_script has a shell of its own", job: after(script("X=lost", "export Y=lost", "cd /"), `echo "[$X$Y]"`, `[ "$PWD" = "$CI_PROJECT_DIR" ] && echo same`), has: []string{"[]", "same"}},
	{name: "a failure of after_script is ignored", job: after(script("true"), "echo one", "exit 7", "echo never"), has: []string{"one", "Job succeeded"}, hasNot: []string{"never"}},
	{name: "a failure of after_script counts if asked for", job: with(after(script("true"), "exit 7"), pipeline.Variable{Name: "AFTER_SCRIPT_IGNORE_ERRORS", Value: "false"}), code: 7},
	{name: "after_script does not hide a failure", job: with(after(script("exit 5"), "exit 7"), pipeline.Variable{Name: "AFTER_SCRIPT_IGNORE_ERRORS", Value: "false"}), code: 5},
	{name: "after_script is not repaired by its success", job: after(script("exit 5"), "exit 0"), code: 5},
	{name: "after_script has a limit of its own", job: with(after(script("true"), "sleep 60", "echo never"), pipeline.Variable{Name: "RUNNER_AFTER_SCRIPT_TIMEOUT", Value: "1s"}), has: []string{"Job succeeded"}, hasNot: []string{"\nnever"}},
	{name: "a limit that is none", job: with(after(script("true"), "echo after"), pipeline.Variable{Name: "RUNNER_AFTER_SCRIPT_TIMEOUT", Value: "soon"}), has: []string{"after", "Job succeeded"}, raw: []string{"RUNNER_AFTER_SCRIPT_TIMEOUT"}},
	{name: "GITLAB_ENV", job: after(script(`echo "A=one two" >> "$GITLAB_ENV"`, `printf 'B=three' >> "$GITLAB_ENV"`), `echo "[$A] [$B]"`), has: []string{"[one two] [three]"}},
	{name: "errexit holds in after_script", job: after(script("true"), "false | true", "echo never"), hasNot: []string{"never"}},
}

// logs are about what can be read of a job.
var logs = []testCase{
	{name: "output in order", job: script("echo one; echo two >&2; echo three; echo four >&2"), has: []string{"one", "two", "three", "four"}},
	{name: "bytes that are no UTF-8", job: script(`printf 'a\377\376\200b\0c\n'`, "echo ünïcödé 💡"), raw: []string{"a\xff\xfe\x80b\x00c\n", "ünïcödé 💡\n"}},
	{name: "a last line without its end", job: script("printf unfinished"), has: []string{"unfinished", "Job succeeded"}},
	{name: "carriage returns and colours", job: script(`printf '10%%\r20%%\r\033[31mred\033[0m\n'`), raw: []string{"10%\r20%\r\x1b[31mred\x1b[0m\n"}},
	{name: "sections of a script", job: script(`printf 'section_start:1:mine[collapsed=true]\r\033[0Ktitle\nsection_end:1:mine\r\033[0K\n'`),
		raw: []string{"section_start:1:mine[collapsed=true]\r\x1b[0Ktitle\n"}},
	{name: "sections of the runner", job: after(script("true"), "true"), raw: []string{":step_script\r\x1b[0K", ":after_script\r\x1b[0K"}},
	{name: "masked values", job: with(script(`echo "$S"`, `echo "x$S$S"`, `printf s3cr; sleep 0.1; echo et-value/1`, `printf '%s' "$S" | base64`, `printf 'user:%s' "$S" | base64`, "echo s3cret-value%2F1", `echo "$L"`),
		pipeline.Variable{Name: "S", Value: "s3cret-value/1", Masked: true}, pipeline.Variable{Name: "L", Value: "s3cret-value/1-longer", Masked: true}),
		has:    []string{"[MASKED]", "x[MASKED][MASKED]", "[MASKED]", "[MASKED]", "[MASKED]", "[MASKED]"},
		hasNot: []string{"s3cret-value/1", "czNjcmV0LXZhbHVl", "s3cret-value%2F1", "-longer"}},
	{name: "masked values in commands and errors", job: with(script("echo s3cret-value/1", "no-s3cret-value/1-here"), pipeline.Variable{Name: "S", Value: "s3cret-value/1", Masked: true}), code: 127, has: []string{"$ echo [MASKED]"}, hasNot: []string{"s3cret-value/1"}},
	{name: "what a masked value refers to", job: with(script("echo s3cret-value/1"), pipeline.Variable{Name: "S", Value: "s3cret-$V", Masked: true}, pipeline.Variable{Name: "V", Value: "value/1"}), hasNot: []string{"s3cret-value/1"}},
	{name: "other secrets of a job", job: executor.Job{Mask: []string{"s3cret-value/1"}, Job: pipeline.Job{Script: []string{"echo s3cret-val''ue/1"}}}, has: []string{"[MASKED]"}},
	{name: "tokens and URLs", job: script("echo glpat-abcd''efgh 'http://h/?private_token=abc&x=1'"), has: []string{"glpat-[MASKED] http://h/?private_token=[MASKED]&x=1"}},
	{name: "the limit of a log", job: executor.Job{LogLimit: 2000, Job: pipeline.Job{Script: []string{"head -c 100000 /dev/zero | tr '\\0' x", "echo la''te", "exit 3"}}}, code: 3,
		has: []string{"Job's log exceeded limit of 2000 bytes.", "Job execution will continue but no more output will be collected.", "ERROR: Job failed: exit code 3"}, hasNot: []string{"late", strings.Repeat("x", 2000)}},
}
