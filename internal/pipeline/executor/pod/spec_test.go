package pod

import (
	"context"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
)

var update = flag.Bool("update", false, "write the golden files")

// A Pod is decided from the job alone, and looks as it is written in testdata.
func TestPods(t *testing.T) {
	o := Options{Image: "registry/keelson:1", Key: []byte("0123456789abcdef"), Namespace: "ci", DefaultImage: "debian:12", PullSecrets: []string{"all"}}
	public := func(kvs ...string) (vs pipeline.Variables) {
		for i := 0; i < len(kvs); i += 2 {
			vs = append(vs, pipeline.Variable{Name: kvs[i], Value: kvs[i+1], Public: true})
		}
		return vs
	}
	seconds := int64(30)
	tests := map[string]executor.Job{
		"plain": {ID: 7, Job: pipeline.Job{Name: "test", Script: []string{"true"}}},
		"image": {ID: 7, Job: pipeline.Job{Name: "test: [1]", Variables: append(public("TAG", "1.26", "CI_PROJECT_PATH", "group/shop", "CI_PIPELINE_ID", "12", "CI_COMMIT_REF_NAME", "main"), pipeline.Variable{Name: "S", Value: "s3cret-value", Masked: true}),
			Image: &pipeline.Image{Name: "golang:$TAG", Entrypoint: []string{"", "/entry", "$TAG"}, PullPolicy: []string{"always", "if-not-present"}, Kubernetes: map[string]any{"user": "1000:1001"}}}},
		"place": {ID: 7, CPU: 500, Memory: 1 << 30, Job: pipeline.Job{Name: "test", AfterScript: []string{"true"}, Timeout: pipeline.Duration(90e9)}, Place: executor.Place{
			Namespace: "shop", ServiceAccount: "jobs", Image: "alpine:3", ImagePullSecrets: []string{"registry"}, NodeSelector: map[string]string{"pool": "ci"},
			Tolerations: []executor.Toleration{{Key: "ci", Operator: "Exists", Effect: "NoExecute", Seconds: &seconds}}}},
		"logins":    {ID: 7, Job: pipeline.Job{Name: "test", Variables: public("CI_REGISTRY", "r:5000", "CI_REGISTRY_USER", "u", "CI_REGISTRY_PASSWORD", "p", "DOCKER_AUTH_CONFIG", `{"auths": {"other": {"auth": "eDp5"}}}`)}},
		"bad-login": {ID: 7, Job: pipeline.Job{Name: "test", Variables: public("DOCKER_AUTH_CONFIG", `{"auths": [`)}},
		"services": {ID: 7, Job: pipeline.Job{Name: "test", Variables: append(public("DB", "shop", "CI_JOB_NAME", "test"), pipeline.Variable{Name: "S", Value: "s3cret-value", Masked: true}), Services: []pipeline.Service{
			{Image: pipeline.Image{Name: "registry.example:5000/lib/postgres:16@sha256:abc", PullPolicy: []string{"never"}}, Alias: "db, Database", Command: []string{"-c", "fsync=off"}, Variables: public("POSTGRES_PASSWORD", "$S", "HEALTHCHECK_TCP_PORT", "5432")},
			{Image: pipeline.Image{Name: "redis", Docker: map[string]any{"user": "redis"}, Entrypoint: []string{"redis-server"}}}}}},
	}
	for name, j := range tests {
		t.Run(name, func(t *testing.T) {
			b, notes, err := plan(j, o, jobDir(j))
			if err != nil {
				t.Fatal(err)
			}
			b.pullSecrets = o.PullSecrets
			pod, err := yaml.Marshal(b.pod(b.name))
			if err != nil {
				t.Fatal(err)
			}
			secret := b.secret(map[string][]byte{})
			got := string(pod)
			for _, key := range slices.Sorted(maps.Keys(secret.Data)) {
				got += "# Secret: " + key + " = " + string(secret.Data[key]) + "\n"
			}
			for _, n := range notes {
				got += "# Note: " + n + "\n"
			}
			file := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
			if strings.Contains(string(pod), "s3cret") {
				t.Error("the Pod shows a masked value")
			}
		})
	}
}

func TestBadJobs(t *testing.T) {
	image := func(i pipeline.Image) executor.Job { return executor.Job{ID: 1, Job: pipeline.Job{Image: &i}} }
	service := func(s pipeline.Service) executor.Job {
		s.Variables = append(s.Variables, pipeline.Variable{Name: "S", Value: "s3cret-value", Masked: true})
		return executor.Job{ID: 1, Job: pipeline.Job{Image: &pipeline.Image{Name: "a"}, Services: []pipeline.Service{s}, Variables: s.Variables}}
	}
	many := executor.Job{ID: 1, Job: pipeline.Job{Image: &pipeline.Image{Name: "a"}, Services: make([]pipeline.Service, 21)}}
	tests := map[string]struct {
		job  executor.Job
		want string
	}{
		"no image":                    {executor.Job{ID: 1}, "the job has no image: name one in the job (image:), in the Project (spec.executor.image) or in default:image"},
		"nothing is left of an image": {image(pipeline.Image{Name: "$NONE"}), "the job has no image: name one in the job (image:), in the Project (spec.executor.image) or in default:image"},
		"a policy":                    {image(pipeline.Image{Name: "a", PullPolicy: []string{"sometimes"}}), `pull_policy "sometimes" is not known: it is always, if-not-present or never`},
		"a service without an image":  {service(pipeline.Service{Image: pipeline.Image{Name: "$NONE"}}), `service "$NONE" has no image`},
		"a secret in a command":       {service(pipeline.Service{Image: pipeline.Image{Name: "redis"}, Command: []string{"--requirepass $S"}}), `"--requirepass [MASKED]" would show a masked variable to all who may read Pods; give it to the service as a variable`},
		"too many services":           {many, "the job has 21 services; a Pod takes 20"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, err := plan(tt.job, Options{Key: []byte("k")}, "/builds/x")
			var f *executor.Failure
			if err == nil || err.Error() != tt.want || !errors.As(err, &f) || f.Reason != pipeline.ConfigurationError {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// A job has the images of our own registry that its project may read, whatever a node has already, and always pulls them.
func TestOwnRegistry(t *testing.T) {
	o := Options{Key: []byte("k"), Registry: "10.0.0.1:5000", DefaultImage: "10.0.0.1:5000/tools/default", AllowImage: func(_ context.Context, j executor.Job, repository string) error {
		if j.ID != 1 || repository != "group/app" {
			return errors.New("it is another project's")
		}
		return nil
	}}
	const refused = "image %s: it is another project's"
	tests := map[string]struct{ image, service, place, want string }{
		"its own":                      {image: "10.0.0.1:5000/group/app:1"},
		"its own by digest":            {image: "10.0.0.1:5000/group/app:1@sha256:00"},
		"another project's":            {image: "10.0.0.1:5000/group/other", want: refused},
		"by a variable":                {image: "$OTHER", want: "image 10.0.0.1:5000/group/other:1: it is another project's"},
		"a service":                    {image: "a", service: "10.0.0.1:5000/group/other:1", want: "image 10.0.0.1:5000/group/other:1: it is another project's"},
		"another registry":             {image: "10.0.0.2:5000/group/other"},
		"what its Project says":        {place: "10.0.0.1:5000/tools/shell"},
		"said by the job as well":      {place: "10.0.0.1:5000/tools/shell", image: "10.0.0.1:5000/tools/shell"},
		"a variable in the Project":    {place: "$OTHER", want: "image 10.0.0.1:5000/group/other:1: it is another project's"},
		"the default":                  {},
		"what a node has":              {image: "sha256:ab", want: "image sha256:ab is the number of an image on a node; name it as its registry does"},
		"what a node has as a service": {image: "a", service: "sha256:ab", want: "image sha256:ab is the number of an image on a node; name it as its registry does"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			j := executor.Job{ID: 1, Place: executor.Place{Image: tt.place}, Job: pipeline.Job{Image: &pipeline.Image{Name: tt.image, PullPolicy: []string{"never"}}, Variables: pipeline.Variables{{Name: "OTHER", Value: "10.0.0.1:5000/group/other:1"}}}}
			if tt.service != "" {
				j.Services = []pipeline.Service{{Image: pipeline.Image{Name: tt.service}}}
			}
			b, _, err := plan(j, o, "/builds/x")
			if err == nil {
				err = b.allowed(t.Context(), j, o)
			}
			want := strings.ReplaceAll(tt.want, "%s", tt.image)
			var f *executor.Failure
			if want == "" && err != nil || want != "" && (err == nil || err.Error() != want || !errors.As(err, &f) || f.Reason != pipeline.ConfigurationError) {
				t.Errorf("got %v, want %q", err, want)
			}
			if strings.HasPrefix(b.image, o.Registry+"/") && b.policy != corev1.PullAlways {
				t.Errorf("pulled %s", b.policy)
			}
		})
	}
}

func TestServiceNames(t *testing.T) {
	for image, want := range map[string][]string{
		"postgres:16":                           {"postgres"},
		"tutum/wordpress":                       {"tutum-wordpress"},
		"registry.example:5000/tutum/wp:latest": {"registry.example-tutum-wp"},
		"mysql@sha256:0123":                     {"mysql"},
		"localhost:5000/x":                      {"localhost-x"},
		"a_b":                                   nil,
	} {
		if got := serviceNames(image, ""); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", image, got, want)
		}
	}
	if got := serviceNames("redis", "cache, Cache second not_a_name redis"); !slices.Equal(got, []string{"redis", "cache", "second"}) {
		t.Errorf("%q", got)
	}
}

func TestJobDir(t *testing.T) {
	for path, want := range map[string]string{"": "/builds/001", "group/shop": "/builds/group/shop", "../../etc": "/builds/etc", "/": "/builds/001", "a\nb": "/builds/001"} {
		j := executor.Job{Dir: "/var/lib/x/001", Job: pipeline.Job{Variables: pipeline.Variables{{Name: "CI_PROJECT_PATH", Value: path}}}}
		if got := jobDir(j); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}
