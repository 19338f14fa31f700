package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/kustomize/kyaml/openapi"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/pipeline"
)

type ciRBACOptions struct {
	name        string
	environment string
	preset      string
	manifests   string // a folder; empty: the preset
	resources   []string
	verbs       []string
	helm        bool
	projects    []string
}

func ciRBACCommand(g *global) *cobra.Command {
	var opts ciRBACOptions
	cmd := &cobra.Command{
		Use:   "rbac -n NAMESPACE",
		Short: "Write the service account and the role of deploy jobs",
		Long: `Rbac writes a ServiceAccount, a Role and a RoleBinding for the deploy jobs of a project, as YAML, for an administrator to read and apply:

  keelson ci rbac -n shop --environment production --from-manifests k8s/overlays/production > rbac.yaml

The preset deploy allows what kubectl apply, kubectl rollout and helm need for the usual kinds in one namespace. With --from-manifests
the role allows just the kinds that a folder's objects have (its kustomization, or else every manifest in it), in the namespaces that
they are in, and to see the Pods of its workloads; --helm adds the Secrets in which Helm keeps its releases. --resource names kinds
by hand. Nothing is allowed outside of the namespaces: objects of the cluster are named, and left to an administrator.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("preset") && (opts.manifests != "" || len(opts.resources) > 0) {
				return usagef("--preset says it all: leave out --from-manifests and --resource")
			}
			return runCIRBAC(cmd.Context(), g, opts)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.name, "name", "", "the `name` of the account and its role (default: deploy, and the environment's)")
	f.StringVar(&opts.environment, "environment", "", "the `environment` that the jobs deploy to")
	f.StringVar(&opts.preset, "preset", presetDeploy, "what is allowed: deploy")
	f.StringVar(&opts.manifests, "from-manifests", "", "allow what the objects of this `folder` need")
	f.StringArrayVar(&opts.resources, "resource", nil, "allow this `RESOURCE[.GROUP]` (deployments.apps); can be repeated")
	f.StringSliceVar(&opts.verbs, "verbs", deployVerbs, "what is allowed with the resources of --from-manifests and --resource")
	f.BoolVar(&opts.helm, "helm", false, "allow Helm's releases too")
	f.StringSliceVar(&opts.projects, "project", nil, "let jobs of this Project of another namespace act as the account: `NAMESPACE/NAME`, or NAMESPACE/*")
	return cmd
}

// What deploy jobs do with objects: apply, patch, scale and delete them, and wait for them.
var (
	deployVerbs = []string{"get", "list", "watch", "create", "update", "patch", "delete"}
	readVerbs   = []string{"get", "list", "watch"}
)

const presetDeploy = "deploy"

// presetResources are the kinds of the preset deploy.
var presetResources = []schema.GroupResource{
	{Resource: "configmaps"}, {Resource: "persistentvolumeclaims"}, {Resource: "pods"}, {Resource: "secrets"}, {Resource: "serviceaccounts"}, {Resource: "services"},
	{Group: "apps", Resource: "daemonsets"}, {Group: "apps", Resource: "deployments"}, {Group: "apps", Resource: "statefulsets"},
	{Group: "autoscaling", Resource: "horizontalpodautoscalers"},
	{Group: "batch", Resource: "cronjobs"}, {Group: "batch", Resource: "jobs"},
	{Group: "networking.k8s.io", Resource: "ingresses"}, {Group: "networking.k8s.io", Resource: "networkpolicies"},
	{Group: "policy", Resource: "poddisruptionbudgets"},
}

// rights are verbs by resource, of one namespace.
type rights map[schema.GroupResource]map[string]bool

func (r rights) allow(resource schema.GroupResource, verbs ...string) {
	if r[resource] == nil {
		r[resource] = map[string]bool{}
	}
	for _, v := range verbs {
		r[resource][v] = true
	}
}

// follow allows what following a workload needs beside the workload itself: to scale it, and to see what it is made of.
func (r rights) follow(workload schema.GroupResource) {
	switch workload {
	case schema.GroupResource{Group: "apps", Resource: "deployments"}:
		r.allow(schema.GroupResource{Group: "apps", Resource: "replicasets"}, readVerbs...)
		r.allow(schema.GroupResource{Group: "apps", Resource: "deployments/scale"}, "get", "update", "patch")
	case schema.GroupResource{Group: "apps", Resource: "statefulsets"}:
		r.allow(schema.GroupResource{Group: "apps", Resource: "controllerrevisions"}, readVerbs...)
		r.allow(schema.GroupResource{Group: "apps", Resource: "statefulsets/scale"}, "get", "update", "patch")
	case schema.GroupResource{Group: "apps", Resource: "daemonsets"}:
		r.allow(schema.GroupResource{Group: "apps", Resource: "controllerrevisions"}, readVerbs...)
	case schema.GroupResource{Group: "batch", Resource: "jobs"}, schema.GroupResource{Group: "batch", Resource: "cronjobs"}, schema.GroupResource{Resource: "pods"}:
	default:
		return
	}
	r.allow(schema.GroupResource{Resource: "pods"}, readVerbs...)
	r.allow(schema.GroupResource{Resource: "pods/log"}, "get")
	r.allow(schema.GroupResource{Resource: "events"}, readVerbs...)
}

// rules gives the rights as the rules of a Role: one for each group and set of verbs, in a fixed order.
func (r rights) rules() []rbacv1.PolicyRule {
	type key struct{ group, verbs string }
	by := map[key][]string{}
	for resource, verbs := range r {
		list := slices.SortedFunc(maps.Keys(verbs), compareVerbs)
		k := key{resource.Group, strings.Join(list, " ")}
		by[k] = append(by[k], resource.Resource)
	}
	var rules []rbacv1.PolicyRule
	for k, resources := range by {
		slices.Sort(resources)
		rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{k.group}, Resources: resources, Verbs: strings.Fields(k.verbs)})
	}
	slices.SortFunc(rules, func(a, b rbacv1.PolicyRule) int {
		return cmp.Or(cmp.Compare(a.APIGroups[0], b.APIGroups[0]), cmp.Compare(a.Resources[0], b.Resources[0]))
	})
	return rules
}

// compareVerbs has verbs in the order of deployVerbs, and others after them.
func compareVerbs(a, b string) int {
	at := func(verb string) int {
		if i := slices.Index(deployVerbs, verb); i >= 0 {
			return i
		}
		return len(deployVerbs)
	}
	return cmp.Or(cmp.Compare(at(a), at(b)), cmp.Compare(a, b))
}

func runCIRBAC(ctx context.Context, g *global, opts ciRBACOptions) error {
	byNamespace, err := opts.rights(ctx, g)
	if err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(byNamespace))
	home := g.namespace
	if home == "" && len(names) == 1 {
		home = names[0]
	}
	if home == "" || slices.Contains(names, "") {
		return usagef("say with -n in which namespace the jobs deploy")
	}
	name := opts.name
	if name == "" {
		name = presetDeploy
		if opts.environment != "" {
			name += "-" + pipeline.EnvironmentSlug(opts.environment)
		}
	}
	if wrong := append(validation.IsDNS1123Subdomain(name), validation.IsDNS1123Label(home)...); len(wrong) > 0 {
		return usagef("%s/%s is no name for a service account: %s", home, name, wrong[0])
	}
	account := rbacObject("v1", "ServiceAccount", home, name, opts.environment, nil)
	if len(opts.projects) > 0 {
		if err := annotateProjects(account, opts.projects); err != nil {
			return err
		}
	}
	objects := []delivery.Object{account}
	for _, ns := range names {
		objects = append(objects,
			rbacObject(rbacv1.SchemeGroupVersion.String(), "Role", ns, name, opts.environment, map[string]any{"rules": plainRules(byNamespace[ns].rules())}),
			rbacObject(rbacv1.SchemeGroupVersion.String(), "RoleBinding", ns, name, opts.environment, map[string]any{
				"roleRef":  map[string]any{"apiGroup": rbacv1.GroupName, "kind": "Role", "name": name},
				"subjects": []any{map[string]any{"kind": "ServiceAccount", "name": name, "namespace": home}},
			}))
	}
	return printObjects(g, objects, false)
}

// environmentAnnotation tells people which environment an account is for.
const environmentAnnotation = "keelson.dev/environment"

// annotateProjects has a service account name the Projects of other namespaces whose jobs may act as it.
func annotateProjects(account delivery.Object, projects []string) error {
	for _, p := range projects {
		if !projectPattern.MatchString(p) {
			return usagef("--project %q: it takes the namespace and the name of a Project, or a pattern: shop/app, shop/*", p)
		}
	}
	annotations := account.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[projectsAnnotation] = strings.Join(projects, ",")
	account.SetAnnotations(annotations)
	return nil
}

// projectPattern is what a Project's namespace and name may be, with * for anything.
var projectPattern = regexp.MustCompile(`^[a-z0-9*-]+/[a-z0-9.*-]+$`)

func rbacObject(version, kind, namespace, name, environment string, more map[string]any) delivery.Object {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	maps.Copy(u.Object, more)
	u.SetAPIVersion(version)
	u.SetKind(kind)
	u.SetNamespace(namespace)
	u.SetName(name)
	if environment != "" {
		u.SetAnnotations(map[string]string{environmentAnnotation: environment})
	}
	return delivery.Object{Unstructured: u}
}

func plainRules(rules []rbacv1.PolicyRule) []any {
	plain := func(list []string) []any {
		out := make([]any, len(list))
		for i, s := range list {
			out[i] = s
		}
		return out
	}
	out := make([]any, len(rules))
	for i, r := range rules {
		out[i] = map[string]any{"apiGroups": plain(r.APIGroups), "resources": plain(r.Resources), "verbs": plain(r.Verbs)}
	}
	return out
}

// rights gives what is allowed, by namespace.
func (o ciRBACOptions) rights(ctx context.Context, g *global) (map[string]rights, error) {
	all := map[string]rights{}
	in := func(namespace string) rights {
		if all[namespace] == nil {
			all[namespace] = rights{}
		}
		return all[namespace]
	}
	grant := func(r rights, resource schema.GroupResource, verbs []string) {
		r.allow(resource, verbs...)
		r.follow(resource)
	}
	switch {
	case o.manifests == "" && len(o.resources) == 0 && o.preset == presetDeploy:
		for _, resource := range presetResources {
			grant(in(g.namespace), resource, deployVerbs)
		}
		return all, nil
	case o.manifests == "" && len(o.resources) == 0:
		return nil, usagef("there is no preset %q: it is deploy", o.preset)
	}
	if o.manifests != "" {
		objects, err := renderFolder(ctx, o.manifests, "")
		if err != nil {
			return nil, err
		}
		used, notes := usedBy(objects, g.namespace)
		for _, note := range notes {
			fmt.Fprintln(g.err, "note: "+note)
		}
		if len(used) == 0 {
			return nil, hintf(fmt.Errorf("%s has no objects of a namespace", o.manifests), "without --from-manifests the usual kinds are allowed")
		}
		for _, u := range used {
			grant(in(u.namespace), u.resource, o.verbs)
		}
	}
	for _, text := range o.resources {
		resource := schema.ParseGroupResource(text)
		if resource.Resource == "" || strings.Contains(text, "*") {
			return nil, withCode(exitUsage, hintf(errors.New("--resource "+text+": it names one resource"), "deployments.apps, configmaps"))
		}
		grant(in(g.namespace), resource, o.verbs)
	}
	if o.helm {
		for _, r := range all {
			r.allow(schema.GroupResource{Resource: "secrets"}, deployVerbs...)
		}
	}
	return all, nil
}

// use is a kind of object in a namespace.
type use struct {
	namespace string
	resource  schema.GroupResource
}

// usedBy gives the resources of objects, and notes about what a Role cannot allow or what is not sure.
func usedBy(objects []delivery.Object, namespace string) (used []use, notes []string) {
	defined := definedKinds(objects)
	for _, o := range objects {
		gvk := o.GroupVersionKind()
		version, kind := gvk.ToAPIVersionAndKind()
		inNamespace, known := openapi.IsNamespaceScoped(kyaml.TypeMeta{APIVersion: version, Kind: kind})
		plural, _ := meta.UnsafeGuessKindToResource(gvk)
		resource := plural.GroupResource()
		if d, ok := defined[gvk.GroupKind()]; ok {
			inNamespace, known, resource.Resource = d.namespaced, true, d.plural
		}
		switch {
		case known && !inNamespace:
			notes = append(notes, fmt.Sprintf("%s %s is in no namespace, and a Role cannot allow it: an administrator applies it, or allows it with a ClusterRole", kind, o.GetName()))
			continue
		case !known:
			notes = append(notes, fmt.Sprintf("%s is not known here: the role names its resource %s, and takes it for one of a namespace", gvk.GroupKind(), resource))
		}
		used = append(used, use{cmp.Or(o.GetNamespace(), namespace), resource})
	}
	slices.Sort(notes)
	return used, slices.Compact(notes)
}

// definition is how a kind is served.
type definition struct {
	plural     string
	namespaced bool
}

// definedKinds are those that the objects themselves define.
func definedKinds(objects []delivery.Object) map[schema.GroupKind]definition {
	out := map[schema.GroupKind]definition{}
	for _, o := range objects {
		if o.GroupVersionKind().GroupKind() != (schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}) {
			continue
		}
		text := func(fields ...string) string {
			s, _, _ := unstructured.NestedString(o.Object, fields...)
			return s
		}
		out[schema.GroupKind{Group: text("spec", "group"), Kind: text("spec", "names", "kind")}] =
			definition{text("spec", "names", "plural"), text("spec", "scope") != "Cluster"}
	}
	return out
}
