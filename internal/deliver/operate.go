package deliver

import (
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/operation"
)

// Operate tells what the operation of a request does next, after state was observed. Its stage is carried out by [Engine.Act];
// [operation.Record] takes in the results.
func (e *Engine) Operate(req Request, state State, mem *Memory) operation.Step {
	return operation.Next(operation.View{
		Operation: *req.Operation, Policy: *req.App.Sync, Plan: state.Plan, Hooks: state.Hooks, Now: req.Now,
		Live:   e.Live.Get,
		Health: func(ref delivery.Ref) delivery.Health { return e.healthOf(ref, mem) },
	})
}
