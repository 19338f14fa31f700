// Package plan decides what has to change in a cluster. It is pure: desired objects, what is there,
// the inventory and the holds go in; a [delivery.Plan] comes out, with a reason for every change.
//
// The rules, in order:
//
//  1. An object that another app owns, or a changed immutable field, blocks the whole plan.
//  2. An empty render, or a prune of more than the app's guard allows, blocks it until a person confirms.
//  3. An object is sent only if it is missing, Git wants something else than what was sent last,
//     or a field that we own is not as the server left it after our last apply.
//  4. What is in the inventory and not in Git is deleted, if the app prunes and the object is still ours.
//
// Stages order the rest: CustomResourceDefinitions, Namespaces, class kinds, everything else, prune.
package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/delivery"
)

// Input is everything a plan is made of.
type Input struct {
	Key       delivery.Key // of the hashes of Live and Applied
	App       delivery.App
	Revision  delivery.Revision
	Desired   []delivery.Object                   // what the commit wants, labels of ownership set
	Live      map[delivery.Ref]delivery.Live      // what is there of Desired and Inventory; absent: not there, or not labelled as ours
	Applied   map[delivery.Ref]delivery.Applied   // what we sent last, as far as remembered
	Inventory delivery.Inventory                  // what the app owns
	Claims    map[delivery.Ref]delivery.ID        // objects of Desired and Hooks that another app owns
	Unknown   map[schema.GroupKind]bool           // kinds of Desired and Inventory that the cluster does not know
	Scaled    map[delivery.Ref]string             // objects with an autoscaler, and its name ("HorizontalPodAutoscaler/web")
	Ignored   map[delivery.Ref][]delivery.Pointer // fields of Desired that are left to others
	Holds     []delivery.Hold
	// NotBefore delays the repair of an object that keeps being undone, or made anew.
	NotBefore map[delivery.Ref]time.Time
	// Present are objects that are there but not labelled as ours, as far as it matters: of those marked IfNotPresent.
	Present map[delivery.Ref]bool
	// Refused are the objects that the server did not take when they were sent last.
	Refused map[delivery.Ref]Refusal
	// Undone are objects that go by themselves once they have done their work, and went before that.
	Undone map[delivery.Ref]bool
	// Hooks are objects of operations, named as they are made: they are no part of the plan, but may forbid it.
	Hooks []delivery.Object
	// Removing says that the app is deleted: what is to survive that stays, not what is to survive pruning.
	Removing bool
	// Waves are those of what left Git, as they were while it was there.
	Waves map[delivery.Ref]int
	Now   time.Time
}

// Refusal says what was sent in vain, and when it makes sense to send it again; something else may be sent at once.
type Refusal struct {
	Desired   delivery.Hash
	Until     time.Time
	Immutable bool // it was there, and would be taken if it was made anew
}

// Compute makes the plan.
func Compute(in Input) delivery.Plan {
	var p delivery.Plan
	p.Inventory = make(delivery.Inventory, len(in.Desired))
	stages := make([]delivery.Stage, len(stageNames))
	for i, name := range stageNames {
		stages[i].Name = name
	}
	coming := definedKinds(in.Desired)
	for _, obj := range in.Desired {
		ref := obj.Ref()
		if in.Unknown[ref.GroupKind()] && coming[ref.GroupKind()] {
			p.Awaits = append(p.Awaits, ref)
		}
		// What is to be left alone and is not ours does not become ours.
		left, alone := leftAlone(in, obj)
		if _, owned := in.Inventory[ref]; !alone || owned && !in.Present[ref] {
			p.Inventory[ref] = obj.GroupVersionKind().Version
		}
		if alone {
			i := stageOf(ref)
			stages[i].Changes = append(stages[i].Changes, left)
			continue
		}
		if block, ok := blockOf(in, obj, coming); ok {
			p.Blocks = append(p.Blocks, block)
			continue
		}
		i := stageOf(ref)
		stages[i].Changes = append(stages[i].Changes, changeOf(in, obj))
	}
	for _, hook := range in.Hooks {
		if block, ok := denied(in.App, hook); ok {
			p.Blocks = append(p.Blocks, block)
		} else if owner, ok := in.Claims[hook.Ref()]; ok {
			p.Blocks = append(p.Blocks, Claimed(in.App, hook.Ref(), owner))
		}
	}
	gone := in.Inventory.Minus(p.Inventory)
	prune := pruneChanges(in, gone)
	for _, c := range prune {
		i := pruneStage
		if isRight(c.Ref) {
			i = pruneRightsStage
		}
		stages[i].Changes = append(stages[i].Changes, c)
	}
	if block, ok := guard(in, prune); ok {
		p.Blocks = append(p.Blocks, block)
	}
	for _, c := range prune {
		if c.Verb == delivery.Delegated { // a hold keeps it: it stays ours
			p.Inventory[c.Ref] = c.Version
		}
	}
	p.Stages = slices.DeleteFunc(stages, func(s delivery.Stage) bool { return len(s.Changes) == 0 })
	return p
}

// blockOf finds what forbids sending obj at all.
func blockOf(in Input, obj delivery.Object, coming map[schema.GroupKind]bool) (delivery.Block, bool) {
	ref := obj.Ref()
	if block, ok := denied(in.App, obj); ok {
		return block, true
	}
	if gk := ref.GroupKind(); in.Unknown[gk] && !coming[gk] && !mayCome(in.App, obj) {
		return delivery.Block{Ref: ref, Fault: &delivery.Fault{
			Reason: "KindNotFound", Where: obj.Where(), Retry: delivery.Backoff,
			Hint: "install its CustomResourceDefinition, or let this app depend on the one that brings it",
			Err:  fmt.Errorf("the cluster has no kind %s in %s", ref.Kind, obj.GetAPIVersion()),
		}}, true
	}
	if owner, ok := in.Claims[ref]; ok {
		return Claimed(in.App, ref, owner), true
	}
	live, ok := in.Live[ref]
	if !ok {
		return delivery.Block{}, false
	}
	path, was, wants, changed := changedFixed(obj.Unstructured, live.Fixed)
	if changed && !Forced(in.App, obj, live.Marks) && !taken(in, obj, live) {
		return delivery.Block{Ref: ref, Fault: &delivery.Fault{
			Reason: "ImmutableField", Where: obj.Where(), Retry: delivery.OnChange,
			Hint: replaceHint(in.App),
			Err:  fmt.Errorf("%s cannot be changed from %s to %s: Kubernetes never lets that field of a %s change", path, was, wants, ref.Kind),
		}}, true
	}
	return delivery.Block{}, false
}

// Claimed is what blocks a plan in which an object is another app's.
func Claimed(app delivery.App, ref delivery.Ref, owner delivery.ID) delivery.Block {
	return delivery.Block{Ref: ref, Fault: &delivery.Fault{
		Reason: "OwnershipConflict", Where: ref.String(), Retry: delivery.OnEvent,
		Hint: fmt.Sprintf("remove it from one of the two; %s takes it over once %s has let it go", app.ID, owner),
		Err:  fmt.Errorf("it is already owned by %s", owner),
	}}
}

// denied tells whether the app's project, or the Secret of its cluster, forbids an object.
func denied(app delivery.App, obj delivery.Object) (delivery.Block, bool) {
	no := app.Limits.Refuse(obj.Ref(), obj.GetNamespace() != "")
	if no == nil {
		return delivery.Block{}, false
	}
	return delivery.Block{Ref: obj.Ref(), Fault: &delivery.Fault{
		Reason: "NotPermitted", Where: obj.Where(), Retry: delivery.OnChange,
		Hint: "take it out of Git, or " + no.Remedy,
		Err:  fmt.Errorf("%s of %s is not permitted in %s: %s", obj.GetKind(), obj.GetAPIVersion(), no.Where, no.Rule),
	}}, true
}

// mayCome tells whether an object is sent although its kind is not known (Argo CD: SkipDryRunOnMissingResource).
func mayCome(app delivery.App, obj delivery.Object) bool {
	return app.Sync != nil && (app.Sync.Options.SkipDryRunOnMissingResource || obj.Asks.Has(delivery.MarkKindMayCome))
}

// taken tells whether the server has taken an object as Git wants it. What differs from that in a field that cannot be changed was
// made so by the server or by a webhook.
func taken(in Input, obj delivery.Object, live delivery.Live) bool {
	if _, scaled := in.Scaled[obj.Ref()]; scaled {
		obj = leaveReplicas(obj, live, true)
	}
	last, sent := in.Applied[obj.Ref()]
	return sent && last.Desired == Hash(in.Key, obj.Unstructured)
}

// definedKinds are the kinds that the app's own CustomResourceDefinitions bring.
func definedKinds(objects []delivery.Object) map[schema.GroupKind]bool {
	kinds := map[schema.GroupKind]bool{}
	for _, obj := range objects {
		if stageOf(obj.Ref()) != 0 {
			continue
		}
		group, _, _ := unstructured.NestedString(obj.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(obj.Object, "spec", "names", "kind")
		kinds[schema.GroupKind{Group: group, Kind: kind}] = true
	}
	return kinds
}

// leftAlone is the change of an object that is not to be touched: one that is held, or that is marked to be made only where it
// is not there, and is.
func leftAlone(in Input, obj delivery.Object) (delivery.Change, bool) {
	ref := obj.Ref()
	c := delivery.Change{
		Ref: ref, Version: obj.GroupVersionKind().Version, Verb: delivery.Delegated, Left: delivery.LeftByGit, Wave: obj.Wave, Asks: obj.Asks,
	}
	live, there := in.Live[ref]
	h, held := holdOn(in.Holds, ref, in.Now)
	switch {
	case held:
		c.Reason = h.Describe()
	case there && live.Marks.Has(delivery.MarkLeave):
		c.Left, c.Reason = delivery.LeftByCluster, "it is marked in the cluster to be left alone"
	case (there && !live.Deleting || in.Present[ref]) && obj.Asks.Has(delivery.MarkIfNotPresent):
		c.Reason = "it is there already, and only made where it is not (" + delivery.SSAMark + ": IfNotPresent)"
	default:
		return c, false
	}
	return c, true
}

// changeOf decides about one desired object that nothing blocks.
func changeOf(in Input, obj delivery.Object) delivery.Change {
	ref := obj.Ref()
	c := delivery.Change{Ref: ref, Version: obj.GroupVersionKind().Version, Ignored: in.Ignored[ref], Wave: obj.Wave, Asks: obj.Asks}
	live, there := in.Live[ref]
	scaler, scaled := in.Scaled[ref]
	if scaled {
		obj = leaveReplicas(obj, live, there)
		c.Autoscaled = true
	}
	c.Object, c.Desired = &obj, Hash(in.Key, obj.Unstructured)
	c.Forced = there && Forced(in.App, obj, live.Marks)
	if there {
		if c.Verb, c.Reason = replacement(in, obj, live, c.Desired); c.Verb != "" {
			c.Object, c.UID, c.Version = nil, live.UID, cmp.Or(live.Version, c.Version)
			return c
		}
	}
	last, sent := in.Applied[ref]
	c.Verb, c.Reason = verdict(last, sent, live, there, c)
	if there && in.App.Sync != nil && c.Verb.Touches() && (in.App.Sync.Options.Replace || obj.Asks.Has(delivery.MarkReplace)) {
		if c.Forced && !holders[ref.GroupKind()] {
			c.Verb, c.Object, c.UID = delivery.Replace, nil, live.UID
			c.Version, c.Reason = cmp.Or(live.Version, c.Version), c.Reason+"; deleted and made anew, as Replace and Force are set"
			return c
		}
		c.Whole = true
	}
	if c.Verb == delivery.Repair && !there && last.Fleeting && !in.Undone[ref] {
		c.Verb, c.Reason = delivery.Unchanged, "it has done its work and went by itself"
	}
	switch {
	case c.Verb == delivery.Unchanged:
		c.Object = nil
	case c.Verb == delivery.Repair && in.Now.Before(in.NotBefore[ref]):
		c.Verb, c.Object = delivery.Delegated, nil
		c.Reason = fmt.Sprintf("%s; its repair keeps being undone by %q, next try at %s",
			c.Reason, live.Rival, in.NotBefore[ref].UTC().Format(time.RFC3339))
	case in.Refused[ref].Desired == c.Desired && in.Now.Before(in.Refused[ref].Until):
		c.Verb, c.Object = delivery.Paused, nil
		c.Reason = fmt.Sprintf("%s; the API server refused it, next try at %s", c.Reason, in.Refused[ref].Until.UTC().Format(time.RFC3339))
	case scaled && c.Verb == delivery.Update:
		c.Reason += ", spec.replicas left to " + scaler
	}
	return c
}

// verdict is rule 3: what to do about an object, and why.
func verdict(last delivery.Applied, sent bool, live delivery.Live, there bool, c delivery.Change) (delivery.Verb, string) {
	switch {
	case there && live.Deleting:
		return delivery.Delegated, "it is being deleted; it is made anew when it is gone"
	case !there && sent && last.Desired == c.Desired:
		return delivery.Repair, "deleted in the cluster, or its ownership label was removed"
	case !there:
		return delivery.Create, "new in Git"
	case !sent && live.Shared != "":
		return delivery.Update, "taken over from " + live.Shared
	case !sent:
		return delivery.Update, "not yet applied by this process"
	case last.Desired != c.Desired && last.Autoscaled != c.Autoscaled:
		return delivery.Update, "an autoscaler came or went"
	case last.Desired != c.Desired:
		return delivery.Update, "changed in Git"
	case Drifted(last, live, c.Autoscaled):
		return delivery.Repair, driftReason(last, live)
	case live.Shared != "":
		return delivery.Repair, "applied by " + live.Shared + " as well"
	}
	return delivery.Unchanged, ""
}

// Drifted tells from hashes alone whether a field that we own is no longer as the server left it
// after our last apply. Fields that we do not own never count; spec.replicas does not under an autoscaler.
func Drifted(last delivery.Applied, live delivery.Live, autoscaled bool) bool {
	if last.Owned != live.Owned {
		return true
	}
	return !autoscaled && last.Replicas >= 0 && (live.Replicas != last.Replicas || !live.OwnsReplicas)
}

func driftReason(last delivery.Applied, live delivery.Live) string {
	by := ""
	if live.Rival != "" {
		by = " by " + live.Rival
	}
	if last.Owned == live.Owned {
		return fmt.Sprintf("scaled from %d to %d in the cluster%s", last.Replicas, live.Replicas, by)
	}
	return "edited in the cluster" + by
}

// pruneChanges is rule 4.
func pruneChanges(in Input, gone delivery.Inventory) []delivery.Change {
	var out []delivery.Change
	kept := map[string]delivery.Ref{} // UIDs of what Git wants
	for _, obj := range in.Desired {
		if live := in.Live[obj.Ref()]; live.UID != "" {
			kept[live.UID] = obj.Ref()
		}
	}
	for _, ref := range gone.Refs() {
		c := delivery.Change{Ref: ref, Version: gone[ref], Verb: delivery.Release}
		live, there := in.Live[ref]
		c.Wave, c.Asks = in.Waves[ref], live.Marks
		if in.App.Sync != nil {
			c.Propagation = cmp.Or(in.App.Sync.Options.Propagation, "foreground") // as in Argo CD
		}
		hold, held := holdOn(in.Holds, ref, in.Now)
		switch {
		case !in.App.Prune:
			c.Reason = "left Git, but the app does not prune"
		case !there && in.Unknown[ref.GroupKind()]:
			c.Verb, c.Reason = delivery.Delegated, "left Git, but the cluster does not know its kind now"
		case !there:
			c.Reason = "left Git and is gone, or is no longer labelled as ours"
		case live.Owner != in.App.ID:
			c.Reason = "left Git, but " + live.Owner.String() + " owns it now"
		case kept[live.UID] != delivery.Ref{}: // one object may be served in two groups
			c.Reason = "left Git under this name, but is the same object as " + kept[live.UID].String()
		case holdsUsUp(in, ref):
			c.Reason = "left Git, but what Keelson delivers is declared in it"
		case in.App.Limits != nil && in.App.Limits.Deny(ref, ref.Namespace != "") != "":
			c.Verb, c.Reason = delivery.Delegated, "left Git, but the project does not permit it: "+in.App.Limits.Deny(ref, ref.Namespace != "")
		case live.Marks.Has(keeps(in)):
			c.Reason = "left Git, but is marked to survive pruning"
			if in.App.Sync != nil { // it is told of as long as it is there
				c.Verb = delivery.Delegated
			}
		case held:
			c.Verb, c.Reason = delivery.Delegated, hold.Describe()
		case live.Deleting:
			c.Reason = "left Git and is being deleted"
		default:
			c.Verb, c.Reason, c.UID, c.Version = delivery.Delete, "left Git", live.UID, cmp.Or(live.Version, c.Version)
		}
		out = append(out, c)
	}
	return out
}

// keeps are the marks of objects that stay.
func keeps(in Input) delivery.Marks {
	if in.App.Sync != nil && in.Removing {
		return delivery.MarkKeepOnDelete | delivery.MarkLeave
	}
	return delivery.MarkKeep | delivery.MarkLeave
}

// guard is rule 2.
func guard(in Input, prune []delivery.Change) (delivery.Block, bool) {
	deletes := 0
	var strange []string // to be deleted, and never applied by us
	for _, c := range prune {
		if c.Verb != delivery.Delete {
			continue
		}
		deletes++
		if in.Live[c.Ref].Owned == (delivery.Hash{}) && in.App.Sync == nil { // of Argo CD's each object says itself whose it is
			strange = append(strange, c.Ref.String())
		}
	}
	if deletes == 0 || confirmed(in.App.Guard.Confirmed, in.Revision) {
		return delivery.Block{}, false
	}
	var err error
	switch {
	case len(in.Desired) == 0 && !in.App.Guard.AllowEmpty:
		err = fmt.Errorf("the commit renders to nothing: every object of the app (%d) would be deleted", deletes)
	case deletes*100 > in.App.Guard.MaxPrunePercent*len(in.Inventory):
		err = fmt.Errorf("%d of the app's %d objects would be deleted, which is more than %d %%",
			deletes, len(in.Inventory), in.App.Guard.MaxPrunePercent)
	case len(strange) > 0 && in.Revision.Commit != "": // else the app itself is deleted
		err = fmt.Errorf("%s would be deleted that another controller left in the inventory and Keelson has never applied: %s",
			count(len(strange), "object"), strings.Join(strange[:min(len(strange), maxStrange)], ", "))
	default:
		return delivery.Block{}, false
	}
	return delivery.Block{Fault: &delivery.Fault{
		Reason: "ConfirmationRequired", Retry: delivery.OnEvent, Err: err,
		Hint: fmt.Sprintf("if it is meant, run 'keelson confirm %s -n %s' or annotate the app with keelson.dev/confirm=%s",
			in.App.ID.Name, in.App.ID.Namespace, in.Revision.Commit),
	}}, true
}

// maxStrange bounds how many objects a message names.
const maxStrange = 3

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// argoKinds are the definitions of the kinds of Argo CD; others of its group are of other products.
var argoKinds = []string{"applications.argoproj.io", "applicationsets.argoproj.io", "appprojects.argoproj.io"}

// holdsUsUp tells of the objects that are never pruned: the definitions of the kinds that apps are declared in, and the namespace
// that this one is declared in, unless it is deleted itself. With them every app would go, and with the apps everything.
func holdsUsUp(in Input, ref delivery.Ref) bool {
	switch {
	case in.App.KubeConfig != (delivery.KubeConfig{}): // another cluster
		return false
	case ref.Group == "apiextensions.k8s.io" && ref.Kind == "CustomResourceDefinition":
		return strings.HasSuffix(ref.Name, ".toolkit.fluxcd.io") || strings.HasSuffix(ref.Name, ".keelson.dev") || slices.Contains(argoKinds, ref.Name)
	case ref.Group == "" && ref.Kind == "Namespace":
		return ref.Name == in.App.ID.Namespace && in.Revision.Commit != ""
	}
	return false
}

// confirmed tells whether a person's word covers the revision: its commit, abbreviated to no less than seven digits.
func confirmed(word string, rev delivery.Revision) bool {
	if named := delivery.ParseRevision(word); named.Commit != "" {
		word = named.Commit
	}
	return len(word) >= 7 && len(word) <= len(rev.Commit) && rev.Commit[:len(word)] == word
}

func holdOn(holds []delivery.Hold, ref delivery.Ref, now time.Time) (delivery.Hold, bool) {
	for _, h := range holds {
		if len(h.Fields) == 0 && (h.Ref == ref || h.Ref == (delivery.Ref{})) && (h.Until.IsZero() || now.Before(h.Until)) {
			return h, true
		}
	}
	return delivery.Hold{}, false
}

// leaveReplicas gives obj without spec.replicas. While we are still its owner in the cluster, leaving it out would
// reset it to its default, so the live number is sent until the autoscaler has written one of its own.
func leaveReplicas(obj delivery.Object, live delivery.Live, there bool) delivery.Object {
	obj.Unstructured = obj.DeepCopy()
	if there && live.OwnsReplicas && live.Replicas >= 0 {
		_ = unstructured.SetNestedField(obj.Object, live.Replicas, "spec", "replicas")
		return obj
	}
	unstructured.RemoveNestedField(obj.Object, "spec", "replicas")
	return obj
}
