package lua

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"time"

	lua "github.com/yuin/gopher-lua"
)

// The limits of one script.
const (
	scriptTime   = time.Second      // of the processor
	scriptWait   = 10 * time.Second // by the clock, on a machine that is busy with other things
	scriptMemory = 256 << 20        // bytes of its process
	hardMemory   = 1 << 30          // bytes beyond which the process gets none, however fast it asks
	mercy        = 500 * time.Millisecond
	maxCompiled  = 256 // scripts
	tooLong      = "it takes longer than 1 s of processor time"
)

// ServeChild answers the questions of a parent until there are no more, and gives the exit code to end with. The process ends early
// where a script cannot be stopped in another way.
func ServeChild(in io.Reader, out io.Writer) int {
	boundMemory(hardMemory)
	debug.SetMemoryLimit(scriptMemory / 2)
	debug.SetMaxStack(64 << 20)
	questions := make(chan question)
	go func() { // whatever a script does meanwhile, the end of the input is seen
		in := bufio.NewReader(in)
		for {
			var q question
			if decode(in, maxObject, &q) != nil {
				os.Exit(childOrphaned)
			}
			questions <- q
		}
	}()
	compiled := map[string]*lua.FunctionProto{}
	for a := (answer{}); ; a = watched(<-questions, compiled) {
		if memory() > scriptMemory/2 { // the next one begins with what this one had
			debug.FreeOSMemory()
		}
		var b bytes.Buffer
		if encode(&b, a) != nil {
			return childOrphaned
		}
		if _, err := out.Write(b.Bytes()); err != nil {
			return childOrphaned
		}
	}
}

// watched runs a script within its limits.
func watched(q question, compiled map[string]*lua.FunctionProto) answer {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go watch(cancel, done)
	a := run(ctx, q, compiled)
	if ctx.Err() != nil {
		return answer{Stopped: tooLong}
	}
	return a
}

// memory is what the process has of it and does not give back, in bytes.
func memory() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64() - s[1].Value.Uint64()
}

// watch cancels a script that takes too long, and ends the process where that does not help, or where it takes too much memory.
func watch(cancel func(), done <-chan struct{}) {
	began, used := time.Now(), processorTime()
	over := func(more time.Duration) bool {
		return processorTime()-used > scriptTime+more || time.Since(began) > scriptWait+more
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		switch {
		case over(mercy):
			os.Exit(childTooLong)
		case over(0):
			cancel()
		case memory() > scriptMemory:
			os.Exit(childTooLarge)
		}
	}
}

// run runs a script, and reads what it gives. compiled keeps scripts for the next time.
func run(ctx context.Context, q question, compiled map[string]*lua.FunctionProto) answer {
	state := lua.NewState(lua.Options{SkipOpenLibs: true, RegistryMaxSize: 512 << 10, CallStackSize: 200, MinimizeStackMemory: true})
	defer state.Close()
	state.SetContext(ctx)
	open(state, q.OpenLibs)
	state.SetGlobal("obj", value(state, q.Object))
	proto := compiled[q.Script]
	if proto == nil {
		f, err := state.Load(strings.NewReader(q.Script), "health.lua")
		if err != nil {
			return answer{Failed: failure(err)}
		}
		if len(compiled) >= maxCompiled {
			clear(compiled)
		}
		proto = f.Proto
		compiled[q.Script] = proto
	}
	state.Push(state.NewFunctionFromProto(proto))
	if err := state.PCall(0, lua.MultRet, nil); err != nil {
		return answer{Failed: failure(err)}
	}
	return read(state.Get(-1))
}

// failure is an error of a script in one line, without the stack.
func failure(err error) string {
	text := err.Error()
	if e := (*lua.ApiError)(nil); errors.As(err, &e) && e.Object != nil && e.Object != lua.LNil {
		text = e.Object.String()
	}
	text, _, _ = strings.Cut(text, "\nstack traceback:")
	return strings.Join(strings.Fields(bounded(text)), " ")
}

// bounded cuts a text that is far too long: a message is bounded again where it is read.
func bounded(text string) string {
	const most = 4 * maxMessage
	if len(text) > most {
		return text[:most]
	}
	return text
}

// read reads a table with status, message and deletionMessage.
func read(v lua.LValue) answer {
	table, ok := v.(*lua.LTable)
	switch {
	case v == lua.LNil:
		return answer{Nothing: true}
	case !ok:
		return answer{Failed: fmt.Sprintf("expect table output from Lua script, not %s", v.Type())}
	}
	text := func(field string) string {
		switch v := table.RawGetString(field).(type) {
		case lua.LString, lua.LNumber:
			return bounded(v.String())
		default:
			return ""
		}
	}
	a := answer{Status: text("status"), Message: text("message"), Deletion: text("deletionMessage")}
	a.Nothing = a == (answer{})
	return a
}

// value makes what JSON holds a value of Lua.
func value(state *lua.LState, v any) lua.LValue {
	switch v := v.(type) {
	case bool:
		return lua.LBool(v)
	case float64:
		return lua.LNumber(v)
	case string:
		return lua.LString(v)
	case []any:
		table := state.CreateTable(len(v), 0)
		for _, item := range v {
			table.Append(value(state, item))
		}
		return table
	case map[string]any:
		table := state.CreateTable(0, len(v))
		for key, item := range v {
			table.RawSetString(key, value(state, item))
		}
		return table
	default:
		return lua.LNil
	}
}

// libraries are what scripts may use of which library: nothing that reaches a file, the environment, or the process. Those that
// are open only come with OpenLibs.
var libraries = []struct {
	name    string
	load    lua.LGFunction
	open    bool
	allowed []string // none: everything
}{
	{lua.TabLibName, lua.OpenTable, false, nil},
	{lua.OsLibName, lua.OpenOs, false, []string{"clock", "date", "difftime", "time"}},
	{lua.StringLibName, lua.OpenString, true, nil},
	{lua.MathLibName, lua.OpenMath, true, nil},
	{lua.CoroutineLibName, lua.OpenCoroutine, true, nil},
}

// basic are the functions of the basic library that scripts may use.
var basic = []string{
	"assert", "error", "getfenv", "getmetatable", "ipairs", "load", "loadstring", "next", "pairs", "pcall", "rawequal", "rawget",
	"rawset", "select", "setfenv", "setmetatable", "tonumber", "tostring", "type", "unpack", "xpcall",
}

// open makes the libraries known that a script may use.
func open(state *lua.LState, all bool) {
	load := func(f lua.LGFunction, name string) {
		state.Push(state.NewFunction(f))
		state.Push(lua.LString(name))
		state.Call(1, 0)
	}
	globals := state.G.Global
	load(lua.OpenBase, lua.BaseLibName)
	keep(globals, append([]string{"_G", "_VERSION"}, basic...))
	for _, l := range libraries {
		if l.open && !all {
			continue
		}
		load(l.load, l.name)
		if table, ok := globals.RawGetString(l.name).(*lua.LTable); ok && l.allowed != nil {
			keep(table, l.allowed)
		}
	}
	globals.RawSetString("print", state.NewFunction(func(*lua.LState) int { return 0 })) // standard output is not its own
	globals.RawSetString("require", state.NewFunction(func(s *lua.LState) int {
		name := s.CheckString(1)
		for _, l := range libraries {
			if l.name == name && (all || !l.open) {
				s.Push(globals.RawGetString(name))
				return 1
			}
		}
		s.RaiseError("there is no module %q", name)
		return 0
	}))
}

// keep takes everything out of a table but some of its entries.
func keep(table *lua.LTable, names []string) {
	kept := map[string]bool{}
	for _, name := range names {
		kept[name] = true
	}
	var gone []lua.LValue
	table.ForEach(func(key, _ lua.LValue) {
		if name, ok := key.(lua.LString); !ok || !kept[string(name)] {
			gone = append(gone, key)
		}
	})
	for _, key := range gone {
		table.RawSet(key, lua.LNil)
	}
}
