package delivery

import "testing"

func TestEnvironmentOf(t *testing.T) {
	for name, c := range map[string]struct {
		labels            map[string]string
		target, namespace string
		want              string
	}{
		"our label":             {map[string]string{"keelson.dev/environment": "dev", "environment": "x"}, "web", "flux-system", "dev"},
		"a label that is usual": {map[string]string{"app.kubernetes.io/environment": "qa", "environment": "x"}, "web", "flux-system", "qa"},
		"the shortest label":    {map[string]string{"environment": "x"}, "web", "flux-system", "x"},
		"where it goes":         {map[string]string{"environment": ""}, "web", "flux-system", "web"},
		"where it is declared":  {nil, "", "flux-system", "flux-system"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := EnvironmentOf(c.labels, c.target, c.namespace); got != c.want {
				t.Errorf("%v to %q, declared in %q: %q, want %q", c.labels, c.target, c.namespace, got, c.want)
			}
		})
	}
}
