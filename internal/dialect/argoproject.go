package dialect

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/redact"
)

// ArgoOrphans is how a project wants to be warned of objects in its namespaces that no Application owns.
type ArgoOrphans struct {
	Warn   bool
	Ignore []argocdv1.OrphanedResourceKey // globs; an empty field is any
}

// Ignores tells whether nobody is to be warned of an object: the project says so, or it is one that a cluster makes by itself.
func (o ArgoOrphans) Ignores(ref delivery.Ref) bool {
	switch {
	case ref.Group == "" && ref.Kind == "ServiceAccount" && ref.Name == "default",
		ref.Group == "" && ref.Kind == "ConfigMap" && ref.Name == "kube-root-ca.crt",
		ref.Group == "" && ref.Kind == "Service" && ref.Name == "kubernetes" && ref.Namespace == "default",
		ref.Group == "" && ref.Kind == "Event", ref.Group == "events.k8s.io":
		return true
	}
	match := func(glob, text string) bool { return glob == "" || delivery.MatchGlob(glob, text, "") }
	return slices.ContainsFunc(o.Ignore, func(k argocdv1.OrphanedResourceKey) bool {
		return delivery.MatchGlob(k.Group, ref.Group, "") && match(k.Kind, ref.Kind) && match(k.Name, ref.Name)
	})
}

func projectName(a *argocdv1.Application) string { return orElse(a.Spec.Project, DefaultProject) }

// DefaultArgoProject is the project default as a fresh Argo CD makes it: it allows everything.
func DefaultArgoProject(namespace string) *argocdv1.AppProject {
	return &argocdv1.AppProject{
		ObjectMeta: metav1.ObjectMeta{Name: DefaultProject, Namespace: namespace},
		Spec: argocdv1.AppProjectSpec{
			SourceRepos:              []string{"*"},
			Destinations:             []argocdv1.ApplicationDestination{{Server: "*", Namespace: "*"}},
			ClusterResourceWhitelist: []argocdv1.ClusterResourceRestriction{{Group: "*", Kind: "*"}},
		},
	}
}

// project gives the Application's project; nil: it has none that it may use.
func (r *argoReader) project() *argocdv1.AppProject {
	p, name := r.in.Project, projectName(r.a)
	if p == nil && name == DefaultProject {
		p = DefaultArgoProject(r.in.Namespace)
	}
	switch {
	case p == nil:
		r.ungoverned("Application referencing project %s which does not exist", name)
		return nil
	case r.a.Namespace != r.in.Namespace && !ArgoServes(p, r.a.Namespace):
		r.ungoverned("application '%s' in namespace '%s' is not permitted to use project '%s': no entry of spec.sourceNamespaces matches the namespace", r.a.Name, r.a.Namespace, name)
		return nil
	}
	return p
}

// ungoverned says why it is not known what the Application may do: then it does nothing, and its objects are not deleted either.
func (r *argoReader) ungoverned(format string, args ...any) {
	r.out.Ungoverned = fmt.Sprintf(format, args...)
	r.invalid("%s", r.out.Ungoverned)
}

// ArgoServes tells whether Applications of a namespace may use a project that is in another one.
func ArgoServes(p *argocdv1.AppProject, namespace string) bool {
	return slices.ContainsFunc(p.Spec.SourceNamespaces, func(pattern string) bool {
		if inner, ok := strings.CutPrefix(pattern, "/"); ok && len(pattern) > 2 && strings.HasSuffix(inner, "/") {
			re, err := regexp.Compile(strings.TrimSuffix(inner, "/"))
			return err == nil && re.MatchString(namespace)
		}
		return delivery.MatchGlob(pattern, namespace, "")
	})
}

// govern applies a project to the Application. known: its destination is.
func (r *argoReader) govern(p *argocdv1.AppProject, destination ArgoCluster, known bool) {
	for i, s := range r.allSources() {
		if why := r.denySource(p, s.RepoURL); why != "" {
			r.invalid("%s %s is not permitted in project '%s': %s", sourceField(r.spec, i), redact.URL(s.RepoURL), p.Name, why)
		}
	}
	r.integrity(p)
	for _, name := range p.Unknown {
		r.ignored = append(r.ignored, "AppProject/"+p.Name+" "+name)
	}
	if o := p.Spec.OrphanedResources; o != nil {
		r.out.Orphans = &ArgoOrphans{Warn: isTrue(o.Warn), Ignore: o.Ignore}
	}
	if !known {
		return
	}
	limits := r.limits(p, destination)
	r.out.App.Limits = limits
	ns := r.spec.Destination.Namespace // none is one that the project has to allow as well: it may forbid the cluster as a whole
	if why := limits.DenyNamespace(ns); why != "" {
		r.invalid("application destination server '%s' and namespace '%s' do not match any of the allowed destinations in project '%s': %s",
			orElse(r.spec.Destination.Name, destination.Server), ns, p.Name, why)
	}
	if p.Spec.PermitOnlyProjectScopedClusters && destination.Project != p.Name {
		r.invalid("project '%s' permits only clusters of its own (spec.permitOnlyProjectScopedClusters), and cluster '%s' is not%s",
			p.Name, orElse(destination.Name, destination.Server), projectOf(destination))
	}
	r.account(p, destination)
	r.windows(p)
}

// integrity refuses a project that checks sources as we do not.
func (r *argoReader) integrity(p *argocdv1.AppProject) {
	if p.Spec.SourceIntegrity != nil {
		r.refuse("AppProject/"+p.Name+" spec.sourceIntegrity", "use spec.signatureKeys for signed commits")
	}
}

// projectOf tells what a cluster's Secret says of its project, as the end of a sentence. This cluster may do without a Secret.
func projectOf(c ArgoCluster) string {
	switch {
	case c.Secret == "":
		return ""
	case c.Project == "":
		return ": its Secret " + c.Secret + " has no project"
	}
	return fmt.Sprintf(": project of its Secret %s is '%s'", c.Secret, c.Project)
}

func (r *argoReader) allSources() []argocdv1.ApplicationSource {
	if len(r.spec.Sources) == 0 && r.spec.Source != nil {
		return []argocdv1.ApplicationSource{*r.spec.Source}
	}
	return r.spec.Sources
}

func sourceField(spec argocdv1.ApplicationSpec, i int) string {
	if len(spec.Sources) == 0 {
		return "spec.source"
	}
	return fmt.Sprintf("spec.sources[%d]", i)
}

// denySource tells why a repository must not be used; empty: it may be. An entry with "!" only forbids: one without has to allow, as
// Argo CD documents it (its code takes the former for an allowance of everything else).
func (r *argoReader) denySource(p *argocdv1.AppProject, rawURL string) string {
	want, allowed := NormalizeURL(rawURL), false
	for _, pattern := range p.Spec.SourceRepos {
		glob, not := strings.CutPrefix(pattern, "!")
		switch matched := globURL(glob, want); {
		case matched && not:
			return "spec.sourceRepos denies '" + pattern + "'"
		case matched:
			allowed = true
		}
	}
	for _, c := range r.in.Repositories { // a project may use the repositories of its own
		allowed = allowed || !c.Template && c.Project == p.Name && NormalizeURL(c.URL) == want
	}
	if allowed {
		return ""
	}
	return "no entry of spec.sourceRepos matches it"
}

// globURL matches a normalised URL. "*" alone matches every one; else it does not go past a slash.
func globURL(pattern, want string) bool {
	return pattern == "*" || delivery.MatchGlob(NormalizeURL(pattern), want, "/")
}

// limits gives what a project lets be delivered to a cluster.
func (r *argoReader) limits(p *argocdv1.AppProject, c ArgoCluster) *delivery.Limits {
	l := &delivery.Limits{
		Project: p.Name, AllowAll: p.Spec.NamespaceResourceWhitelist == nil,
		NamespacedAllow: kindRules(p.Spec.NamespaceResourceWhitelist), NamespacedDeny: kindRules(p.Spec.NamespaceResourceBlacklist),
		ClusterAllow: namedRules(p.Spec.ClusterResourceWhitelist), ClusterDeny: namedRules(p.Spec.ClusterResourceBlacklist),
	}
	if len(c.Namespaces) > 0 {
		l.Cluster = &delivery.ClusterLimits{Secret: c.Secret, Namespaces: c.Namespaces, ClusterWide: c.ClusterResources}
	}
	destinations := slices.Clone(p.Spec.Destinations)
	if c.Project == p.Name { // a project may use the clusters of its own
		for _, ns := range c.Namespaces {
			destinations = append(destinations, argocdv1.ApplicationDestination{Server: c.Server, Namespace: ns})
		}
		if len(c.Namespaces) == 0 {
			destinations = append(destinations, argocdv1.ApplicationDestination{Server: c.Server, Namespace: "*"})
		}
	}
	for _, d := range destinations {
		l.Namespaces = append(l.Namespaces, namespacesOf(d, c)...)
	}
	return l
}

// namespacesOf gives what one destination of a project says about the namespaces of a cluster, as delivery.Limits has it.
func namespacesOf(d argocdv1.ApplicationDestination, c ArgoCluster) []string {
	about, denies := false, false
	for _, f := range [][2]string{{d.Server, c.Server}, {d.Name, c.Name}} {
		glob, not := strings.CutPrefix(f[0], "!")
		denies = denies || not
		about = about || glob != "" && f[1] != "" && delivery.MatchGlob(glob, f[1], "")
	}
	switch {
	case !about:
		return nil
	case denies:
		return []string{"!" + d.Namespace}
	}
	return []string{d.Namespace}
}

func kindRules(kinds []metav1.GroupKind) (rules []delivery.KindRule) {
	for _, k := range kinds {
		rules = append(rules, delivery.KindRule{Group: k.Group, Kind: k.Kind})
	}
	return rules
}

func namedRules(kinds []argocdv1.ClusterResourceRestriction) (rules []delivery.KindRule) {
	for _, k := range kinds {
		rules = append(rules, delivery.KindRule{Group: k.Group, Kind: k.Kind, Name: k.Name})
	}
	return rules
}

// account finds the service account that the Application is delivered as. Argo CD looks for one only where impersonation is switched
// on (argocd-cm); a project that names one is heeded here in any case.
func (r *argoReader) account(p *argocdv1.AppProject, c ArgoCluster) {
	namespace := r.spec.Destination.Namespace
	for _, d := range p.Spec.DestinationServiceAccounts {
		if !delivery.MatchGlob(d.Server, c.Server, "") || !delivery.MatchGlob(d.Namespace, namespace, "") {
			continue
		}
		account := strings.TrimSpace(d.DefaultServiceAccount)
		if account == "" || strings.ContainsAny(account, `!*[]{}\/`) {
			r.ungoverned("project '%s': spec.destinationServiceAccounts: %q is not the name of a service account", p.Name, d.DefaultServiceAccount)
			return
		}
		in, name, ok := strings.Cut(account, ":")
		if !ok {
			in, name = orElse(namespace, r.a.Namespace), account
		}
		r.out.App.ServiceAccountNamespace, r.out.App.ServiceAccount = in, name
		return
	}
	if r.in.Impersonate {
		r.ungoverned("project '%s': no entry of spec.destinationServiceAccounts matches server '%s' and namespace '%s', and impersonation is on (argocd-cm: application.sync.impersonation.enabled)", p.Name, c.Server, namespace)
	}
}
