package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/redact"
)

type eventsOptions struct {
	app   string // empty: all apps and sources
	watch bool
}

func eventsCommand(g *global) *cobra.Command {
	var opts eventsOptions
	cmd := &cobra.Command{
		Use:   "events [APP]",
		Short: "Tell what happened to the apps and sources, the newest last",
		Args:  args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			if len(a) > 0 {
				opts.app = a[0]
			}
			return runEvents(cmd.Context(), g, opts)
		},
	}
	cmd.Flags().BoolVarP(&opts.watch, "watch", "w", false, "go on with new events as they come")
	return cmd
}

// happening is one event as it is shown.
type happening struct {
	Time      time.Time `json:"time"` // of the last occurrence
	Type      string    `json:"type"` // Normal or Warning
	Namespace string    `json:"namespace"`
	Object    string    `json:"object"` // "Kustomization/dev"
	Reason    string    `json:"reason"`
	Message   string    `json:"message"`
	Count     int32     `json:"count"`
	Revision  string    `json:"revision,omitempty"`
}

func runEvents(ctx context.Context, g *global, opts eventsOptions) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	filter, err := eventFilter(ctx, c, g.namespace, opts.app)
	if err != nil {
		return err
	}
	var list corev1.EventList
	if err := c.List(ctx, &list, filter...); err != nil {
		return explainAPI(fmt.Errorf("list events: %w", err))
	}
	events := []happening{}
	for i := range list.Items {
		if isOurs(&list.Items[i]) {
			events = append(events, happeningOf(&list.Items[i]))
		}
	}
	slices.SortStableFunc(events, func(a, b happening) int { return a.Time.Compare(b.Time) })
	if opts.watch {
		return watchEvents(ctx, g, c, list.ResourceVersion, filter, events)
	}
	return g.print(map[string]any{"events": events}, func(w io.Writer) error {
		if len(events) == 0 {
			return printf("no events")(w)
		}
		for _, e := range events {
			if err := e.write(w); err != nil {
				return err
			}
		}
		return nil
	})
}

func eventFilter(ctx context.Context, c client.Client, namespace, app string) ([]client.ListOption, error) {
	if app == "" {
		return []client.ListOption{client.InNamespace(namespace)}, nil
	}
	found, err := findApp(ctx, c, namespace, app)
	if err != nil {
		return nil, err
	}
	id := found.id()
	return []client.ListOption{client.InNamespace(id.Namespace),
		client.MatchingFields{"involvedObject.name": id.Name, "involvedObject.kind": id.Kind}}, nil
}

// watchEvents prints the events so far and then every new one: lines, or one JSON object per line.
func watchEvents(ctx context.Context, g *global, c client.WithWatch, from string, filter []client.ListOption, events []happening) error {
	show := func(e happening) error { return e.write(g.out) }
	if g.output == "json" {
		show = func(e happening) error { return json.NewEncoder(g.out).Encode(e) }
	}
	for _, e := range events {
		if err := show(e); err != nil {
			return err
		}
	}
	w, err := c.Watch(ctx, &corev1.EventList{}, append(filter, resourceVersion(from))...)
	if err != nil {
		return explainAPI(fmt.Errorf("watch events: %w", err))
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		ev, ok := e.Object.(*corev1.Event)
		if !ok || e.Type == watch.Deleted || !isOurs(ev) {
			continue
		}
		if err := show(happeningOf(ev)); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil // that is how a watch ends
	}
	return hintf(errors.New("watch events: the API server ended the watch"), "start it again")
}

// resourceVersion makes a watch begin where a list has ended.
type resourceVersion string

func (v resourceVersion) ApplyToList(o *client.ListOptions) {
	raw := o.AsListOptions()
	raw.ResourceVersion = string(v)
	o.Raw = raw
}

func isOurs(e *corev1.Event) bool {
	group, _, _ := strings.Cut(e.InvolvedObject.APIVersion, "/")
	switch group {
	case kustomizev1.GroupVersion.Group, helmv2.GroupVersion.Group, sourcev1.GroupVersion.Group, argocdv1.GroupVersion.Group:
		return true
	default:
		return false
	}
}

func happeningOf(e *corev1.Event) happening {
	h := happening{
		Time: e.LastTimestamp.UTC(), Type: e.Type, Namespace: e.InvolvedObject.Namespace,
		Object: e.InvolvedObject.Kind + "/" + e.InvolvedObject.Name, Reason: e.Reason,
		Message: redact.Text(e.Message), Count: max(e.Count, 1),
		Revision: e.Annotations[kustomizev1.GroupVersion.Group+"/revision"],
	}
	if e.LastTimestamp.IsZero() {
		h.Time = e.EventTime.UTC()
	}
	return h
}

// write prints an event; further lines of its message are indented below it.
func (h happening) write(w io.Writer) error {
	times := ""
	if h.Count > 1 {
		times = fmt.Sprintf(" (%d times)", h.Count)
	}
	_, err := fmt.Fprintf(w, "%s  %-7s  %s  %s%s: %s\n", h.Time.Local().Format("15:04:05"), h.Type, h.Object, h.Reason, times,
		strings.ReplaceAll(strings.TrimSpace(h.Message), "\n", "\n            "))
	return err
}
