package pod

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/pod/agent"
)

// The labels and annotations of what is made for jobs.
const (
	LabelInstance = "keelson.dev/ci-instance" // who made it: others never touch it
	LabelJob      = "keelson.dev/ci-job"      // the number of the job

	annotationJob      = "keelson.dev/ci-job-name"
	annotationProject  = "keelson.dev/ci-project"
	annotationPipeline = "keelson.dev/ci-pipeline"
	annotationRef      = "keelson.dev/ci-ref"
	annotationRun      = "keelson.dev/ci-run" // the Run that has made it, as nobody can guess it
)

// The names of a Pod's containers. Those of services are service-0 and so on.
const (
	containerBuild  = "build"
	containerHelper = "helper"
	servicePrefix   = "service-"
)

// bootstrap is what the job's container begins with: the helper beside it may still be installing the program. Images without a sleep that
// takes fractions wait as they can.
const bootstrap = `until [ -e ` + agent.Program + ` ]; do sleep 0.02 2>/dev/null || sleep 1 2>/dev/null || :; done; exec ` + agent.Program + ` ` + agent.Command + ` run`

// blueprint is what the Pod of a job is made of, decided before anything is asked of the cluster.
type blueprint struct {
	name, namespace string
	labels          map[string]string
	annotations     map[string]string
	helper          string // image
	image           string
	policy          corev1.PullPolicy
	entrypoint      []string
	user            *corev1.SecurityContext
	services        []service
	place           executor.Place
	limits          corev1.ResourceList
	deadline        time.Duration
	pullSecrets     []string
	auth            []byte   // logins to registries; nil: none
	disk            int64    // of each container and of the job's directory, in bytes
	nonce           string   // of the Run
	asked           []string // images of our own registry that the job names itself
}

// service is a container beside the job's.
type service struct {
	image      string
	policy     corev1.PullPolicy
	names      []string // by which the job finds it
	entrypoint []string
	command    []string
	env        []pipeline.Variable
	user       *corev1.SecurityContext
	port       int // HEALTHCHECK_TCP_PORT; 0: nobody waits for it
}

// plan decides what the Pod of a job is made of. Notes are for its log.
func plan(j executor.Job, o Options, dir string) (b blueprint, notes []string, err error) {
	bad := func(format string, args ...any) error {
		return &executor.Failure{Reason: pipeline.ConfigurationError, Err: fmt.Errorf(format, args...)}
	}
	vars := containerVariables(j, dir)
	b = blueprint{
		name: podName(j.ID, o.instance()), namespace: cmp.Or(j.Place.Namespace, o.Namespace), helper: o.Image, place: j.Place,
		labels:      map[string]string{LabelInstance: o.instance(), LabelJob: strconv.FormatInt(j.ID, 10), "app.kubernetes.io/managed-by": "keelson"},
		annotations: map[string]string{annotationJob: j.Name},
		policy:      corev1.PullIfNotPresent,
	}
	for key, name := range map[string]string{annotationProject: "CI_PROJECT_PATH", annotationPipeline: "CI_PIPELINE_ID", annotationRef: "CI_COMMIT_REF_NAME"} {
		if v, ok := vars.Get(name); ok {
			b.annotations[key] = v.Value
		}
	}
	image := pipeline.Image{}
	if j.Image != nil {
		image = *j.Image
	}
	b.image = cmp.Or(strings.TrimSpace(vars.Expand(image.Name)), strings.TrimSpace(vars.Expand(j.Place.Image)), o.DefaultImage)
	if b.image == "" {
		return b, nil, bad("the job has no image: name one in the job (image:), in the Project (spec.executor.image) or in default:image")
	}
	var note string
	if b.policy, err = pullPolicy(image.PullPolicy); err != nil {
		return b, nil, err
	}
	given := []string{o.DefaultImage} // by those who may make Pods anyway
	if !strings.Contains(j.Place.Image, "$") {
		given = append(given, j.Place.Image)
	}
	b.entrypoint = entrypoint(image.Entrypoint, vars)
	if b.user, note = securityContext(image, vars); note != "" {
		notes = append(notes, note)
	}
	b.limits, b.disk = limits(j), o.disk()
	if len(j.Services) > maxServices {
		return b, nil, bad("the job has %d services; a Pod takes %d", len(j.Services), maxServices)
	}
	for _, s := range j.Services {
		one, note, err := planService(s, vars)
		if err != nil {
			return b, nil, err
		}
		if note != "" {
			notes = append(notes, note)
		}
		b.services = append(b.services, one)
	}
	if err := b.checkImages(o.Registry, given); err != nil {
		return b, nil, err
	}
	if b.auth, note = pullAuth(vars); note != "" {
		notes = append(notes, note)
	}
	if text := b.shown(j.MaskedValues()); text != "" {
		return b, nil, bad("%q would show a masked variable to all who may read Pods; give it to the service as a variable", text)
	}
	after, _ := j.AfterScriptLimit() // the script tells what is wrong with it
	b.deadline = j.Limit() + after + leeway
	return b, notes, nil
}

// imageID is how a node names an image that it has, whoever may pull it; a part of the number is enough for it.
var imageID = regexp.MustCompile(`^(docker\.io/)?(library/)?sha(256|384|512):`)

// checkImages takes care that no image is used just because a node has it. Given are those that a job may have without being asked.
func (b *blueprint) checkImages(registry string, given []string) error {
	check := func(image string, policy *corev1.PullPolicy) error {
		if imageID.MatchString(image) {
			return &executor.Failure{Reason: pipeline.ConfigurationError, Err: fmt.Errorf("image %s is the number of an image on a node; name it as its registry does", image)}
		}
		if repositoryOf(image, registry) == "" {
			return nil
		}
		*policy = corev1.PullAlways
		if !slices.Contains(given, image) {
			b.asked = append(b.asked, image)
		}
		return nil
	}
	if err := check(b.image, &b.policy); err != nil {
		return err
	}
	for i := range b.services {
		if err := check(b.services[i].image, &b.services[i].policy); err != nil {
			return err
		}
	}
	return nil
}

// repositoryOf is the repository of an image in a registry; empty: it is elsewhere.
func repositoryOf(image, registry string) string {
	host, name, ok := strings.Cut(image, "/")
	if registry == "" || !ok || !strings.EqualFold(host, registry) {
		return ""
	}
	name, _, _ = strings.Cut(name, "@")
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		name = name[:colon]
	}
	return name
}

// allowed asks whether the job may have the images that it names.
func (b blueprint) allowed(ctx context.Context, j executor.Job, o Options) error {
	if o.AllowImage == nil {
		return nil
	}
	for _, image := range b.asked {
		if err := o.AllowImage(ctx, j, repositoryOf(image, o.Registry)); err != nil {
			return &executor.Failure{Reason: pipeline.ConfigurationError, Err: fmt.Errorf("image %s: %w", image, err)}
		}
	}
	return nil
}

// maxServices bounds the services of a job.
const maxServices = 20

// leeway is how much longer than its job a Pod may live, to prepare, to keep what the job leaves and to wait for Keelson.
const leeway = time.Hour

// containerVariables are those that names of images and the like refer to.
func containerVariables(j executor.Job, dir string) pipeline.Variables {
	vars := slices.Clone(j.Variables)
	for _, kv := range []pipeline.KV{{Key: "CI_PROJECT_DIR", Value: dir}, {Key: "CI_JOB_ID", Value: strconv.FormatInt(j.ID, 10)}} {
		vars = append(vars, pipeline.Variable{Name: kv.Key, Value: kv.Value, Raw: true, Origin: pipeline.OriginPredefined})
	}
	return vars.Expanded()
}

func podName(job int64, instance string) string { return fmt.Sprintf("job-%d-%s", job, instance) }

// jobDir is the directory of a job in its Pod, as with GitLab's runner.
func jobDir(j executor.Job) string {
	v, _ := j.Variables.Get("CI_PROJECT_PATH")
	clean := path.Clean("/" + v.Value)
	if v.Value == "" || clean == "/" || strings.ContainsAny(clean, "\x00\n") {
		clean = "/" + path.Base(j.Dir)
	}
	return agent.Builds + clean
}

// pullPolicy is the first one that a job names; a Pod has one.
func pullPolicy(policies []string) (corev1.PullPolicy, error) {
	if len(policies) == 0 {
		return "", nil // Kubernetes' own: always for :latest, else if it is not there
	}
	switch policies[0] {
	case "always":
		return corev1.PullAlways, nil
	case "if-not-present":
		return corev1.PullIfNotPresent, nil
	case "never":
		return corev1.PullNever, nil
	}
	return "", &executor.Failure{Reason: pipeline.ConfigurationError, Err: fmt.Errorf("pull_policy %q is not known: it is always, if-not-present or never", policies[0])}
}

// entrypoint is what an image is started with before the shell; empty strings stand for none.
func entrypoint(items []string, vars pipeline.Variables) []string {
	var out []string
	for _, item := range items {
		if text := vars.Expand(item); text != "" {
			out = append(out, text)
		}
	}
	return out
}

// keptCapabilities are what package managers and services need; a container has no others.
var keptCapabilities = []corev1.Capability{"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETUID", "SYS_CHROOT"}

// securityContext is that of a container, with the user that the job wants: UID or UID:GID.
func securityContext(image pipeline.Image, vars pipeline.Variables) (sc *corev1.SecurityContext, note string) {
	no := false
	sc = &corev1.SecurityContext{
		AllowPrivilegeEscalation: &no, Privileged: &no,
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: keptCapabilities},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	wanted := image.Kubernetes["user"]
	if wanted == nil {
		wanted = image.Docker["user"]
	}
	if wanted == nil {
		return sc, ""
	}
	text := vars.Expand(fmt.Sprint(wanted))
	user, group, both := strings.Cut(text, ":")
	uid, err := strconv.ParseInt(user, 10, 32)
	gid := int64(0)
	if err == nil && both {
		gid, err = strconv.ParseInt(group, 10, 32)
	}
	if err != nil || uid < 0 || gid < 0 {
		return sc, fmt.Sprintf("The user %q of image %s is not used: in a Pod it has to be a number, or two as UID:GID", text, vars.Expand(image.Name))
	}
	sc.RunAsUser = &uid
	if both {
		sc.RunAsGroup = &gid
	}
	return sc, ""
}

// nobody is the user of the helper, which needs no rights at all.
const nobody = int64(65534)

func helperContext() *corev1.SecurityContext {
	no, yes, uid := false, true, nobody
	return &corev1.SecurityContext{
		AllowPrivilegeEscalation: &no, Privileged: &no, RunAsNonRoot: &yes, RunAsUser: &uid, RunAsGroup: &uid, ReadOnlyRootFilesystem: &yes,
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
}

// limits are those of the job's container.
func limits(j executor.Job) corev1.ResourceList {
	out := corev1.ResourceList{}
	if j.CPU > 0 {
		out[corev1.ResourceCPU] = *resource.NewMilliQuantity(j.CPU, resource.DecimalSI)
	}
	if j.Memory > 0 {
		out[corev1.ResourceMemory] = *resource.NewQuantity(j.Memory, resource.BinarySI)
	}
	return out
}

// binSize is how large the directory with the agent's program may get.
const binSize = 1 << 30

// resources are those of a container. What the job's own one needs is set aside for it; nothing is for the others.
func (b blueprint) resources(own bool) corev1.ResourceRequirements {
	r := corev1.ResourceRequirements{Limits: maps.Clone(b.limits), Requests: corev1.ResourceList{}}
	r.Limits[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(b.disk, resource.BinarySI)
	for name, limit := range r.Limits {
		if r.Requests[name] = (resource.Quantity{Format: resource.DecimalSI}); own && name != corev1.ResourceEphemeralStorage {
			r.Requests[name] = limit
		}
	}
	return r
}

// emptyDir is a directory of a Pod that has so many bytes at most: the cluster ends a Pod that has more.
func emptyDir(size int64) corev1.VolumeSource {
	return corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: resource.NewQuantity(size, resource.BinarySI)}}
}

func planService(s pipeline.Service, vars pipeline.Variables) (service, string, error) {
	all := append(slices.Clone(vars), s.Variables...).Expanded()
	out := service{image: strings.TrimSpace(all.Expand(s.Name)), entrypoint: entrypoint(s.Entrypoint, all), command: entrypoint(s.Command, all)}
	if out.image == "" {
		return out, "", &executor.Failure{Reason: pipeline.ConfigurationError, Err: fmt.Errorf("service %q has no image", s.Name)}
	}
	var err error
	if out.policy, err = pullPolicy(s.PullPolicy); err != nil {
		return out, "", err
	}
	var note string
	out.user, note = securityContext(s.Image, all)
	out.names = serviceNames(out.image, all.Expand(s.Alias))
	seen := map[string]bool{}
	for _, v := range slices.Backward(all) { // of two with one name the last one counts
		if v.Public && !v.File && !seen[v.Name] && variableName.MatchString(v.Name) && !strings.Contains(v.Value, "\x00") {
			out.env = append(out.env, v)
		}
		seen[v.Name] = true
	}
	slices.SortFunc(out.env, func(a, b pipeline.Variable) int { return strings.Compare(a.Name, b.Name) })
	if v, ok := all.Get("HEALTHCHECK_TCP_PORT"); ok {
		if out.port, err = strconv.Atoi(v.Value); err != nil || out.port < 1 || out.port > 65535 {
			out.port = 0
			note = fmt.Sprintf("HEALTHCHECK_TCP_PORT of service %s is no port; nobody waits for it", out.image)
		}
	}
	return out, note, nil
}

// variableName is what the key of a Secret and an environment can hold.
var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,200}$`)

// serviceNames are the names under which a job finds a service, as GitLab's runner makes them: its aliases, and its image without the
// registry's port and the tag, where / becomes - and __.
func serviceNames(image, aliases string) []string {
	name, _, _ := strings.Cut(image, "@")
	if slash := strings.LastIndexByte(name, '/'); strings.LastIndexByte(name, ':') > slash {
		name = name[:strings.LastIndexByte(name, ':')]
	}
	if host, rest, ok := strings.Cut(name, "/"); ok && strings.ContainsAny(host, ".:") {
		host, _, _ = strings.Cut(host, ":")
		name = host + "/" + rest
	}
	candidates := []string{strings.ReplaceAll(name, "/", "-"), strings.ReplaceAll(name, "/", "__")}
	candidates = append(candidates, strings.FieldsFunc(aliases, func(r rune) bool { return r == ',' || r == ' ' })...)
	var names []string
	for _, n := range candidates {
		if n = strings.ToLower(n); len(validation.IsDNS1123Subdomain(n)) == 0 && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

// pod is the Pod of a blueprint.
func (b blueprint) pod(secret string) *corev1.Pod {
	no, grace, deadline := false, int64(5), int64(b.deadline.Seconds())
	bin := corev1.VolumeMount{Name: "bin", MountPath: agent.BinDir}
	binRead := bin
	binRead.ReadOnly = true
	spec := corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, AutomountServiceAccountToken: &no, EnableServiceLinks: &no, ServiceAccountName: b.place.ServiceAccount,
		NodeSelector: b.place.NodeSelector, Tolerations: tolerations(b.place.Tolerations), TerminationGracePeriodSeconds: &grace, ActiveDeadlineSeconds: &deadline,
		Volumes: []corev1.Volume{
			{Name: "bin", VolumeSource: emptyDir(binSize)},
			{Name: "builds", VolumeSource: emptyDir(b.disk)},
			{Name: "job", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret, Items: agentFiles()}}},
		},
		Containers: []corev1.Container{{
			Name: containerHelper, Image: b.helper, ImagePullPolicy: corev1.PullIfNotPresent, Args: []string{agent.Command, "install", agent.BinDir},
			VolumeMounts: []corev1.VolumeMount{bin}, SecurityContext: helperContext(),
		}},
	}
	pullSecrets := slices.Concat(b.place.ImagePullSecrets, b.pullSecrets)
	if b.auth != nil {
		pullSecrets = append(pullSecrets, secret)
	}
	for _, name := range pullSecrets {
		spec.ImagePullSecrets = append(spec.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
	}
	var aliases []string
	for i, s := range b.services {
		aliases = append(aliases, s.names...)
		spec.Containers = append(spec.Containers, corev1.Container{
			Name: servicePrefix + strconv.Itoa(i), Image: s.image, ImagePullPolicy: s.policy, Command: s.entrypoint, Args: s.command, Env: serviceEnv(i, s.env, secret), SecurityContext: s.user,
			Resources:    b.resources(false),
			VolumeMounts: []corev1.VolumeMount{{Name: "builds", MountPath: agent.Builds}},
		})
	}
	if len(aliases) > 0 {
		slices.Sort(aliases)
		spec.HostAliases = []corev1.HostAlias{{IP: netip.AddrFrom4([4]byte{127, 0, 0, 1}).String(), Hostnames: slices.Compact(aliases)}}
	}
	spec.Containers = append(spec.Containers, corev1.Container{
		Name: containerBuild, Image: b.image, ImagePullPolicy: b.policy, Command: slices.Concat(b.entrypoint, []string{"sh", "-c", bootstrap}),
		VolumeMounts:    []corev1.VolumeMount{binRead, {Name: "builds", MountPath: agent.Builds}, {Name: "job", MountPath: agent.JobDir, ReadOnly: true}},
		SecurityContext: b.user, Resources: b.resources(true),
	})
	annotations := maps.Clone(b.annotations)
	annotations[annotationRun] = b.nonce
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: b.name, Namespace: b.namespace, Labels: b.labels, Annotations: annotations},
		Spec:       spec,
	}
}

// agentFiles are those of the Secret that the agent reads.
func agentFiles() []corev1.KeyToPath {
	var items []corev1.KeyToPath
	for _, name := range []string{agent.FileURL, agent.FileToken, agent.FileCA} {
		items = append(items, corev1.KeyToPath{Key: name, Path: name})
	}
	return items
}

// serviceEnv gives a service its variables out of the job's Secret: they may be made of what nobody must see.
func serviceEnv(n int, vars []pipeline.Variable, secret string) []corev1.EnvVar {
	var env []corev1.EnvVar
	for _, v := range vars {
		env = append(env, corev1.EnvVar{Name: v.Name, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: secret}, Key: serviceKey(n, v.Name),
		}}})
	}
	return env
}

func serviceKey(n int, name string) string { return servicePrefix + strconv.Itoa(n) + "." + name }

// lostNode is how long a job waits for its node to come back, in seconds.
const lostNode = int64(60)

func tolerations(ts []executor.Toleration) []corev1.Toleration {
	seconds := lostNode
	out := []corev1.Toleration{
		{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds},
		{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds},
	}
	for _, t := range ts {
		out = append(out, corev1.Toleration{
			Key: t.Key, Operator: corev1.TolerationOperator(t.Operator), Value: t.Value, Effect: corev1.TaintEffect(t.Effect), TolerationSeconds: t.Seconds,
		})
	}
	return out
}

// secret is the Secret of a job's Pod, with where Keelson is, the token, the variables of services and the logins to registries.
func (b blueprint) secret(data map[string][]byte) *corev1.Secret {
	data = maps.Clone(data)
	for i, s := range b.services {
		for _, v := range s.env {
			data[serviceKey(i, v.Name)] = []byte(v.Value)
		}
	}
	kind := corev1.SecretTypeOpaque
	if b.auth != nil {
		kind, data[corev1.DockerConfigJsonKey] = corev1.SecretTypeDockerConfigJson, b.auth
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: b.name, Namespace: b.namespace, Labels: maps.Clone(b.labels), Annotations: map[string]string{annotationRun: b.nonce}},
		Type:       kind, Data: data,
	}
}

// shown tells which text of a Pod, which many may read, has a value that nobody must see; empty: none.
func (b blueprint) shown(secrets []string) string {
	texts := slices.Concat([]string{b.image}, b.entrypoint)
	for _, s := range b.services {
		texts = slices.Concat(texts, []string{s.image}, s.entrypoint, s.command, s.names)
	}
	texts = slices.AppendSeq(texts, maps.Values(b.annotations))
	for _, text := range texts {
		for _, secret := range secrets {
			if len(secret) >= minSecret && strings.Contains(text, secret) {
				return strings.ReplaceAll(text, secret, "[MASKED]")
			}
		}
	}
	return ""
}

// minSecret is how long a masked value is at least that is looked for, as in logs.
const minSecret = 4
