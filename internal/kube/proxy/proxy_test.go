package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
)

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web"}}, Data: map[string]string{"a": "1"}}
}

func deployment() *appsv1.Deployment {
	labels := map[string]string{"app": "web"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:1"}}},
		}},
	}
}

// What a job writes is told as it is written, in every format of the API; what writes nothing is not.
func TestWritten(t *testing.T) {
	for _, format := range []string{"application/json", "application/vnd.kubernetes.protobuf", "application/yaml"} {
		t.Run(strings.ReplaceAll(format, "/", " "), func(t *testing.T) {
			w := newWorld(t, Options{})
			token, _ := w.grant()
			config := w.config(token)
			if format != "application/yaml" {
				config.ContentType = format
			}
			config.AcceptContentTypes = format
			c, err := kubernetes.NewForConfig(config)
			w.must(err)
			if format == "application/yaml" { // client-go cannot read it, but a server is asked for it by others
				testYAML(w, token)
				return
			}
			steps := []struct {
				do   func(ctx context.Context) error
				told []string
			}{
				{func(ctx context.Context) error {
					_, err := c.CoreV1().ConfigMaps(w.ns).Create(ctx, configMap("a"), metav1.CreateOptions{})
					return err
				}, []string{"create v1 configmaps NS/a created ConfigMap uid version"}},
				{func(ctx context.Context) error {
					_, err := c.CoreV1().ConfigMaps(w.ns).Create(ctx, configMap("a"), metav1.CreateOptions{})
					if !apierrors.IsAlreadyExists(err) {
						return fmt.Errorf("want a conflict: %w", err)
					}
					return nil
				}, nil},
				{func(ctx context.Context) error {
					_, err := c.CoreV1().ConfigMaps(w.ns).Update(ctx, configMap("a"), metav1.UpdateOptions{})
					return err
				}, []string{"update v1 configmaps NS/a ConfigMap uid version"}},
				{func(ctx context.Context) error {
					patch := []byte(`{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b", "labels": {"app": "web"}}}`)
					_, err := c.CoreV1().ConfigMaps(w.ns).Patch(ctx, "b", types.ApplyPatchType, patch, metav1.PatchOptions{FieldManager: "test"})
					return err
				}, []string{"patch v1 configmaps NS/b created ConfigMap uid version"}},
				{func(ctx context.Context) error {
					_, err := c.AppsV1().Deployments(w.ns).Create(ctx, deployment(), metav1.CreateOptions{})
					return err
				}, []string{"create apps/v1 deployments NS/web created Deployment uid version"}},
				{func(ctx context.Context) error {
					scale := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: w.ns}, Spec: autoscalingv1.ScaleSpec{Replicas: 2}}
					_, err := c.AppsV1().Deployments(w.ns).UpdateScale(ctx, "web", scale, metav1.UpdateOptions{})
					return err
				}, []string{"update apps/v1 deployments/scale NS/web"}},
				{func(ctx context.Context) error { // an object that is not gone at once answers as itself
					policy := metav1.DeletePropagationForeground
					return c.AppsV1().Deployments(w.ns).Delete(ctx, "web", metav1.DeleteOptions{PropagationPolicy: &policy})
				}, []string{"delete apps/v1 deployments NS/web Deployment uid version"}},
				{func(ctx context.Context) error {
					all := []string{metav1.DryRunAll}
					_, err := c.CoreV1().ConfigMaps(w.ns).Create(ctx, configMap("dry"), metav1.CreateOptions{DryRun: all})
					return errors.Join(err, c.CoreV1().ConfigMaps(w.ns).Delete(ctx, "a", metav1.DeleteOptions{DryRun: all}))
				}, nil},
				{func(ctx context.Context) error {
					return c.CoreV1().ConfigMaps(w.ns).Delete(ctx, "a", metav1.DeleteOptions{})
				}, []string{"delete v1 configmaps NS/a uid"}},
				{func(ctx context.Context) error {
					return c.CoreV1().ConfigMaps(w.ns).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "app=web"})
				}, []string{"deletecollection v1 configmaps NS/"}},
				{func(ctx context.Context) error {
					_, err := c.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authzv1.SelfSubjectAccessReview{
						Spec: authzv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authzv1.ResourceAttributes{Verb: "get", Resource: "pods", Namespace: w.ns}},
					}, metav1.CreateOptions{})
					return err
				}, nil},
			}
			for i, step := range steps {
				if err := step.do(t.Context()); err != nil {
					t.Errorf("step %d: %v", i+1, err)
				}
				if diff := cmp.Diff(step.told, w.written()); diff != "" {
					t.Errorf("step %d: told (-want +got):\n%s", i+1, diff)
				}
			}
			made, err := c.CoreV1().ConfigMaps(w.ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "made-"}}, metav1.CreateOptions{})
			w.must(err)
			if got, want := w.written(), []string{"create v1 configmaps NS/" + made.Name + " created ConfigMap uid version"}; !slices.Equal(got, want) {
				t.Errorf("told %q, want %q", got, want)
			}
		})
	}
}

// testYAML writes with a body and an answer in YAML.
func testYAML(w *world, token string) {
	w.Helper()
	path := "/api/v1/namespaces/" + w.ns + "/configmaps"
	yaml := func(method, path, body string) {
		w.Helper()
		resp := w.send(token, method, path, body, func(h http.Header) {
			h.Set("Content-Type", "application/yaml")
			h.Set("Accept", "application/yaml")
		})
		if resp.code > 299 {
			w.Fatalf("%s %s: %d %s", method, path, resp.code, resp.body)
		}
	}
	yaml("POST", path, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: doc}\n")
	yaml("DELETE", path+"/doc", "apiVersion: v1\nkind: DeleteOptions\ndryRun: [All]\n")
	yaml("DELETE", path+"/doc", "apiVersion: v1\nkind: DeleteOptions\nDryRun: [All]\n") // is no field: the API is case-sensitive
	want := []string{"create v1 configmaps NS/doc created ConfigMap uid version", "delete v1 configmaps NS/doc uid"}
	if diff := cmp.Diff(want, w.written()); diff != "" {
		w.Errorf("told (-want +got):\n%s", diff)
	}
}

// Who wants an answer that does not show the object gets it, and what was written is known.
func TestWrittenAsTable(t *testing.T) {
	w := newWorld(t, Options{})
	token, _ := w.grant()
	resp := w.send(token, "POST", "/api/v1/namespaces/"+w.ns+"/configmaps?includeObject=None", `{"metadata": {"generateName": "hidden-"}}`, func(h http.Header) {
		h.Set("Content-Type", "application/json")
		h.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	})
	told := w.written()
	if resp.code != http.StatusCreated || len(told) != 1 || !strings.HasPrefix(told[0], "create v1 configmaps NS/hidden-") {
		t.Errorf("%d %s: told %q", resp.code, resp.body, told)
	}
}

// A watch is cut off when its token ends, and what comes after it is told why.
func TestEnd(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(g *Grant)
		want string
	}{
		"revoked": {func(*Grant) {}, "the job's token is no longer valid: the job has ended: only job 12 itself can use it, while it runs"},
		"expired": {func(g *Grant) { g.Expires = time.Now().Add(time.Second) }, "the job's token has expired at .*: start job 12 again"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{})
			token, revoke := w.grant(tt.end)
			c := w.client(token)
			watch, err := c.CoreV1().ConfigMaps(w.ns).Watch(t.Context(), metav1.ListOptions{})
			w.must(err)
			_, err = c.CoreV1().ConfigMaps(w.ns).Create(t.Context(), configMap("a"), metav1.CreateOptions{})
			w.must(err)
			names := map[string]bool{}
			for !names["a"] { // the namespace's own kube-root-ca.crt may come, too
				select {
				case e, ok := <-watch.ResultChan():
					if !ok {
						t.Fatal("the watch has ended")
					}
					if m, ok := e.Object.(*corev1.ConfigMap); ok {
						names[m.Name] = true
					}
				case <-time.After(limit):
					t.Fatal("no event came")
				}
			}
			if name == "revoked" {
				revoke()
			}
			at := time.After(5 * time.Second)
			for open := true; open; {
				select {
				case e, ok := <-watch.ResultChan():
					if open = ok; ok && e.Type != "ERROR" { // how a client tells that it was cut off
						t.Errorf("an event came after the end: %v", e)
					}
				case <-at:
					t.Fatal("the watch goes on")
				}
			}
			_, err = c.CoreV1().ConfigMaps(w.ns).Get(t.Context(), "a", metav1.GetOptions{})
			if !apierrors.IsUnauthorized(err) || !regexp.MustCompile(tt.want).MatchString(err.Error()) {
				t.Errorf("then: %v", err)
			}
		})
	}
}

// The API server sees the account with its own groups and nothing else, and its audit log names the job.
func TestIdentity(t *testing.T) {
	for _, audit := range []bool{false, true} {
		t.Run(fmt.Sprint(audit), func(t *testing.T) {
			w := newWorld(t, Options{Audit: audit})
			token, _ := w.grant()
			review, err := w.client(token).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authnv1.SelfSubjectReview{}, metav1.CreateOptions{})
			w.must(err)
			real := w.secretToken(w.ns, "deploy")
			want := authnv1.UserInfo{
				Username: "system:serviceaccount:" + w.ns + ":deploy",
				Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + w.ns, "system:authenticated"},
			}
			if audit {
				want.Extra = map[string]authnv1.ExtraValue{"keelson.dev/job": {"group/shop/12"}}
			}
			if diff := cmp.Diff(want, review.Status.UserInfo); diff != "" {
				t.Errorf("who it is (-want +got):\n%s", diff)
			}
			// The same as with a token of the account itself.
			config := *cluster.Config
			config.CertData, config.KeyData, config.CertFile, config.KeyFile, config.BearerToken = nil, nil, "", "", real
			own, err := kubernetes.NewForConfig(&config)
			w.must(err)
			review, err = own.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authnv1.SelfSubjectReview{}, metav1.CreateOptions{})
			w.must(err)
			if diff := cmp.Diff(want.Groups, review.Status.UserInfo.Groups); diff != "" {
				t.Errorf("groups of the account itself (-proxy +own):\n%s", diff)
			}
			if audit {
				expectAudit(w)
			}
		})
	}
}

func expectAudit(w *world) {
	w.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		b, err := os.ReadFile(cluster.AuditLog)
		w.must(err)
		for line := range bytes.Lines(b) {
			var event struct {
				ImpersonatedUser authnv1.UserInfo
			}
			if json.Unmarshal(line, &event) == nil && len(event.ImpersonatedUser.Extra) > 0 &&
				strings.Contains(event.ImpersonatedUser.Username, w.ns) && event.ImpersonatedUser.Extra["keelson.dev/job"][0] == "group/shop/12" {
				return
			}
		}
	}
	w.Error("the audit log does not name the job")
}

// What a job cannot do: the code, and a part of what it is told.
func TestAttacker(t *testing.T) {
	w := newWorld(t, Options{Audit: true})
	other := newWorld(t, Options{})
	_, err := w.admin.CoreV1().Secrets(other.ns).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "prize"}, StringData: map[string]string{"password": "s3cret-prize"},
	}, metav1.CreateOptions{})
	w.must(err)
	token, _ := w.grant()
	expired, _ := w.grant(func(g *Grant) { g.Expires = time.Now().Add(-time.Second) })
	revoked, revoke := w.grant()
	revoke()
	homeless, _ := w.grant(func(g *Grant) { g.Account = Account{} })
	elsewhere, _ := other.grant()
	admin := w.secretToken("kube-system", "generic-garbage-collector")
	prize := "/api/v1/namespaces/" + other.ns + "/secrets/prize"
	mine := "/api/v1/namespaces/" + w.ns + "/configmaps"
	header := func(name string, values ...string) func(http.Header) {
		return func(h http.Header) { h[name] = values }
	}
	for name, tt := range map[string]struct {
		token, method, path, body string
		header                    func(http.Header)
		code                      int
		says                      string
	}{
		"no token":             {path: "/version", code: 401, says: "a job's token is needed"},
		"healthz without one":  {path: "/healthz", code: 401},
		"another's token":      {token: elsewhere, path: mine, code: 401, says: "this is no token of a job"},
		"a token that is cut":  {token: token[:len(token)-1], path: mine, code: 401},
		"a changed token":      {token: token[:len(token)-2] + flip(token[len(token)-2:]), path: mine, code: 401},
		"half another's":       {token: elsewhere[:30] + token[30:], path: mine, code: 401},
		"an account's token":   {token: admin, path: mine, code: 401},
		"two tokens":           {path: mine, header: header("Authorization", "Bearer "+token, "Bearer "+admin), code: 401},
		"basic":                {path: mine, header: header("Authorization", "Basic YWRtaW46YWRtaW4="), code: 401},
		"a token in the query": {path: mine + "?access_token=" + token, code: 401},
		"expired":              {token: expired, path: mine, code: 401, says: "the job's token has expired at "},
		"revoked":              {token: revoked, path: mine, code: 401, says: "the job has ended"},
		"no account":           {token: homeless, path: mine, code: 403, says: "no service account is set for environment production"},

		"a Secret of another namespace": {token: token, path: prize, code: 403, says: "cannot get resource"},
		"impersonates an admin":         {token: token, path: prize, header: header("Impersonate-User", "system:admin"), code: 403, says: "system:serviceaccount:" + w.ns + ":deploy"},
		"impersonates masters":          {token: token, path: prize, header: header("Impersonate-Group", "system:masters"), code: 403},
		"in small letters":              {token: token, path: prize, header: header("impersonate-group", "system:masters"), code: 403},
		"with an underscore":            {token: token, path: prize, header: header("Impersonate_Group", "system:masters"), code: 403},
		"a uid":                         {token: token, path: prize, header: header("Impersonate-Uid", "0"), code: 403, says: "system:serviceaccount:" + w.ns + ":deploy"},
		"front proxy":                   {token: token, path: prize, header: func(h http.Header) { h.Set("X-Remote-User", "admin"); h.Set("X-Remote-Group", "system:masters") }, code: 403},
		"drops its account":             {token: token, path: prize, header: header("Connection", "Impersonate-User, Impersonate-Extra-Keelson.dev%2fjob"), code: 403, says: "system:serviceaccount:" + w.ns + ":deploy"},
		"drops the credentials":         {token: token, path: prize, header: header("Connection", "Authorization"), code: 403},
		"a websocket's token": {token: token, path: prize, code: 403, says: "system:serviceaccount:" + w.ns + ":deploy",
			header: header("Sec-Websocket-Protocol", tokenProtocol+"YWRtaW4", "v5.channel.k8s.io")},

		"up":                {token: token, path: "/api/v1/namespaces/" + w.ns + "/../" + other.ns + "/secrets/prize", code: 400, says: "has a part . or .."},
		"up, encoded":       {token: token, path: "/api/v1/namespaces/" + w.ns + "/%2e%2e/x", code: 400, says: "has a part . or .."},
		"up, encoded twice": {token: token, path: "/api/%252e%252e/metrics", code: 400, says: "encoded slash"},
		"encoded slash":     {token: token, path: "/api%2f..%2fmetrics", code: 400, says: "encoded slash"},
		"backslash":         {token: token, path: `/api/..%5cmetrics`, code: 400},
		"two slashes":       {token: token, path: "//metrics", code: 400, says: "has an empty part"},
		"a NUL":             {token: token, path: "/api/v1/%00", code: 400},
		"a new line":        {token: token, path: "/api/v1/%0d%0aImpersonate-User:admin", code: 400},
		"metrics":           {token: token, path: "/metrics", code: 404, says: "this is a Kubernetes API"},
		"profiles":          {token: token, path: "/debug/pprof/heap", code: 404},
		"logs":              {token: token, path: "/logs/kube-apiserver.log", code: 404},
		"nearly an API":     {token: token, path: "/apisx/apps", code: 404},
		"the query":         {token: token, path: mine + "?dryRun=%zz", code: 400, says: "query cannot be read"},
		"a long URL":        {token: token, path: mine + "?labelSelector=" + strings.Repeat("a", maxURL), code: 414},
		"a method":          {token: token, method: "TRACE", path: mine, code: 405},
		"another method":    {token: token, path: mine + "/none", header: header("X-Http-Method-Override", "DELETE"), code: 404},
		"another protocol": {token: token, path: mine, code: 400, says: "not to be had there",
			header: func(h http.Header) { h.Set("Connection", "Upgrade"); h.Set("Upgrade", "h2c") }},
		"two protocols": {token: token, path: mine, code: 400,
			header: func(h http.Header) {
				h["Connection"] = []string{"Upgrade"}
				h["Upgrade"] = []string{"websocket", "h2c"}
			}},

		"a large body":  {token: token, method: "POST", path: mine, body: strings.Repeat("a", maxBody+1), code: 413, says: "more than 16 MiB"},
		"large options": {token: token, method: "DELETE", path: mine + "/none", body: strings.Repeat(" ", maxDeleteOptions+1), code: 413},
		"large headers": {token: token, path: mine, header: header("X-Large", strings.Repeat("a", 2*maxHeader)), code: 431},

		"a token of another account": {token: token, method: "POST", path: "/api/v1/namespaces/kube-system/serviceaccounts/generic-garbage-collector/token",
			body: `{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}`, code: 403, says: "serviceaccounts/token"},
		"a token that outlives it": {token: token, method: "POST", path: "/api/v1/namespaces/" + w.ns + "/serviceaccounts/deploy/token",
			body: `{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}`, code: 403, says: "serviceaccounts/token"},
		"asks about another": {token: token, method: "POST", path: "/apis/authorization.k8s.io/v1/subjectaccessreviews",
			body: `{"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": "admin"}}`, code: 403},
		"checks a token": {token: token, method: "POST", path: "/apis/authentication.k8s.io/v1/tokenreviews",
			body: `{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "x"}}`, code: 403},
		"gives itself rights": {token: token, method: "POST", path: "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
			body: `{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "me"}}`, code: 403},
	} {
		t.Run(name, func(t *testing.T) {
			method := tt.method
			if method == "" {
				method = "GET"
			}
			resp := w.send(tt.token, method, tt.path, tt.body, tt.header)
			if resp.code != tt.code {
				t.Errorf("%d %s, want %d", resp.code, resp.body, tt.code)
			}
			if strings.Contains(resp.body, "s3cret-prize") {
				t.Error("it has the prize")
			}
			if tt.code == 431 { // of the server itself, before there is a request
				return
			}
			var status metav1.Status
			if json.Unmarshal([]byte(resp.body), &status) != nil || status.Kind != "Status" || int(status.Code) != resp.code || !strings.Contains(status.Message, tt.says) {
				t.Errorf("it says %s, want a Status that says %q", resp.body, tt.says)
			}
		})
	}
	if told := w.written(); len(told) > 0 {
		t.Errorf("told %q", told)
	}
}

// flip changes the last bits of a text of base64.
func flip(s string) string {
	if s == "AA" {
		return "BA"
	}
	return "AA"
}

// The first line of a request may name a server, and may be no URL at all.
func TestRequestLine(t *testing.T) {
	w := newWorld(t, Options{})
	token, _ := w.grant()
	for line, want := range map[string]string{
		"GET https://kubernetes.default.svc/api HTTP/1.1": "400 Bad Request",
		"GET http://169.254.169.254/api HTTP/1.1":         "400 Bad Request",
		"CONNECT 10.0.0.1:443 HTTP/1.1":                   "405 Method Not Allowed",
		"OPTIONS * HTTP/1.1":                              "405 Method Not Allowed",
		"GET /api HTTP/1.1":                               "200 OK",
	} {
		t.Run(line, func(t *testing.T) {
			conn, err := tls.Dial("tcp", strings.TrimPrefix(w.url, "https://"), &tls.Config{RootCAs: w.roots()})
			w.must(err)
			defer conn.Close()
			fmt.Fprintf(conn, "%s\r\nHost: keelson\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", line, token)
			got, err := bufio.NewReader(conn).ReadString('\n')
			if got = strings.TrimSpace(got); err != nil || got != "HTTP/1.1 "+want {
				t.Errorf("%q %v, want %s", got, err, want)
			}
		})
	}
}

// Whoever is slow with the headers is let go.
func TestSlowHeaders(t *testing.T) {
	w := newWorld(t, Options{})
	server := w.Server()
	server.ReadHeaderTimeout = 100 * time.Millisecond
	w.serve(server)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(w.url, "https://"), &tls.Config{RootCAs: w.roots()})
	w.must(err)
	defer conn.Close()
	fmt.Fprint(conn, "GET /api HTTP/1.1\r\nHost: kee")
	w.must(conn.SetDeadline(time.Now().Add(limit)))
	if _, err := io.ReadAll(conn); err != nil {
		t.Errorf("it is not closed: %v", err)
	}
}

// A token has so many requests at a time and no more.
func TestAtOnce(t *testing.T) {
	w := newWorld(t, Options{})
	token, _ := w.grant()
	c := w.client(token)
	var stops []func()
	for range maxAtOnce {
		watch, err := c.CoreV1().ConfigMaps(w.ns).Watch(t.Context(), metav1.ListOptions{})
		w.must(err)
		stops = append(stops, watch.Stop)
	}
	resp := w.send(token, "GET", "/version", "", nil)
	if resp.code != http.StatusTooManyRequests || !strings.Contains(resp.body, "256 requests and watches under way") {
		t.Errorf("%d %s", resp.code, resp.body)
	}
	for _, stop := range stops {
		stop()
	}
	for deadline := time.Now().Add(limit); resp.code != http.StatusOK && time.Now().Before(deadline); {
		resp = w.send(token, "GET", "/version", "", nil)
	}
	if resp.code != http.StatusOK {
		t.Errorf("then: %d %s", resp.code, resp.body)
	}
}

// A cluster that cannot be reached is said to be so.
func TestUnreachable(t *testing.T) {
	w := newWorld(t, Options{})
	config := *cluster.Config
	config.Host = "https://127.0.0.1:1"
	var err error
	w.Proxy, err = New(&config, Options{})
	w.must(err)
	w.serve(w.Server())
	token, _ := w.grant()
	resp := w.send(token, "GET", "/version", "", nil)
	if resp.code != http.StatusServiceUnavailable || !strings.Contains(resp.body, "Keelson cannot reach the cluster's API server") {
		t.Errorf("%d %s", resp.code, resp.body)
	}
}

// Who is to act for a job is checked before it is put into headers.
func TestGrantCheck(t *testing.T) {
	w := newWorld(t, Options{})
	for name, g := range map[string]Grant{
		"no job":              {Account: Account{"a", "b"}},
		"a line in the job":   {Job: "1\r\nImpersonate-Group: system:masters", Account: Account{"a", "b"}},
		"a user":              {Job: "1", Account: Account{"kube-system:admin", "b"}},
		"a line in a name":    {Job: "1", Account: Account{"a", "b\r\nX: y"}},
		"no namespace":        {Job: "1", Account: Account{"", "b"}},
		"no name":             {Job: "1", Account: Account{"a", ""}},
		"a letter of no code": {Job: "1", Project: "ünder", Account: Account{"a", "b"}},
	} {
		if _, _, err := w.Grant(g); err == nil {
			t.Errorf("%s: it is given", name)
		}
	}
}

// response is what a request came to.
type response struct {
	code int
	body string
}

func (w *world) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.ca)
	return pool
}

// send sends a request as it is: no client is between, which would mend it.
func (w *world) send(token, method, path, body string, change func(http.Header)) response {
	w.Helper()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(w.url, "https://"), &tls.Config{RootCAs: w.roots()})
	w.must(err)
	defer conn.Close()
	w.must(conn.SetDeadline(time.Now().Add(limit)))
	h := http.Header{"Accept": {"application/json"}}
	if token != "" {
		h.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		h.Set("Content-Type", "application/json")
	}
	if change != nil {
		change(h)
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "%s %s HTTP/1.1\r\nHost: keelson\r\nContent-Length: %d\r\n", method, path, len(body))
	for name, values := range h {
		for _, v := range values {
			fmt.Fprintf(&text, "%s: %s\r\n", name, v)
		}
	}
	text.WriteString("\r\n" + body)
	go func() { _, _ = conn.Write(text.Bytes()) }() // the answer may come before it is all read
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	w.must(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	w.must(err)
	return response{resp.StatusCode, string(b)}
}

// A job that outlives a process gets its token again from the next one, which has the same key; nobody else gets it. What was granted with it
// before is over, and its end does not end the new one.
func TestSameTokenAgain(t *testing.T) {
	w := newWorld(t, Options{Key: []byte("a key")})
	token, revoke := w.grant()
	for name, change := range map[string]func(*Grant){
		"another job":     func(g *Grant) { g.Job = "13" },
		"another project": func(g *Grant) { g.Project = "group/shop1"; g.Job = "2" },
		"another context": func(g *Grant) { g.Context = "infra" },
	} {
		if other, _ := w.grant(change); other == token {
			t.Errorf("%s has the same token", name)
		}
	}
	again, _ := w.grant()
	if again != token {
		t.Errorf("the same process gives %q, then %q", token, again)
	}
	revoke()
	if resp := w.send(token, "GET", "/version", "", nil); resp.code != http.StatusOK {
		t.Errorf("the end of an earlier grant ends the later one: %d %s", resp.code, resp.body)
	}
	var err error
	w.Proxy, err = New(cluster.Config, Options{Key: []byte("a key")})
	w.must(err)
	w.serve(w.Server())
	if resp := w.send(token, "GET", "/version", "", nil); resp.code != http.StatusUnauthorized {
		t.Errorf("the next process knows it before it is granted: %d %s", resp.code, resp.body)
	}
	if again, _ := w.grant(); again != token {
		t.Errorf("the next process gives %q, want %q", again, token)
	}
	if resp := w.send(token, "GET", "/version", "", nil); resp.code != http.StatusOK {
		t.Errorf("then: %d %s", resp.code, resp.body)
	}
	w.Proxy, err = New(cluster.Config, Options{Key: []byte("another key")})
	w.must(err)
	if again, _ := w.grant(); again == token {
		t.Error("another key gives the same token")
	}
}

// Who has no account is told why.
func TestWhy(t *testing.T) {
	w := newWorld(t, Options{})
	token, _ := w.grant(func(g *Grant) { g.Account, g.Why = Account{}, "main is not protected" })
	if resp := w.send(token, "GET", "/version", "", nil); resp.code != http.StatusForbidden || !strings.Contains(resp.body, "main is not protected") {
		t.Errorf("%d %s", resp.code, resp.body)
	}
}

// What a refusal says reaches the person also where a client asks first which kinds there are: it takes no Status there.
func TestRefusalsWhileDiscovering(t *testing.T) {
	w := newWorld(t, Options{})
	none, _ := w.grant(func(g *Grant) { g.Account, g.Why = Account{}, "main is not protected" })
	over, revoke := w.grant()
	revoke()
	for _, test := range []struct{ token, want string }{{none, "main is not protected"}, {over, "the job has ended"}} {
		c, err := discovery.NewDiscoveryClientForConfig(w.config(test.token))
		w.must(err)
		_, groups := c.ServerGroups()
		_, resources := c.ServerResourcesForGroupVersion("apps/v1")
		_, v2 := c.OpenAPISchema()
		_, v3 := c.OpenAPIV3().Paths()
		for name, err := range map[string]error{"groups": groups, "resources": resources, "openapi v2": v2, "openapi v3": v3} {
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v, want %q", name, err, test.want)
			}
		}
	}
}

// TestEarlyAnswer: an API server refuses a request before it has read its body, and clients of HTTP/2 then send no more of it. They have the
// whole answer all the same, and at once.
func TestEarlyAnswer(t *testing.T) {
	w := newWorld(t, Options{})
	token, _ := w.grant()
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: w.roots(), NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
	}
	defer transport.CloseIdleConnections()
	body, more := io.Pipe() // it never ends
	defer more.Close()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+"/api/v1/namespaces", body)
	w.must(err)
	req.ContentLength = 1000
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Client{Transport: transport}).Do(req)
	w.must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusForbidden || !strings.Contains(string(text), "cannot create resource") {
		t.Errorf("%d %v %s", resp.StatusCode, err, text)
	}
}
