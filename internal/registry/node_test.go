package registry

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/keelson/test/testcluster"
)

// TestNodePulls: a real node pulls from the registry, over plain HTTP, by the name that this machine pushes to, and
// only with a login.
func TestNodePulls(t *testing.T) {
	_, address := serve(t, Options{Dir: t.TempDir(), MaxBlob: 64 << 20, MaxTotal: 64 << 20,
		Authorize: func(_ context.Context, user, password, _ string, push bool) error {
			if (user != "job" || password != "pushes") && (push || user != "node" || password != "pulls") {
				return ErrUnauthenticated
			}
			return nil
		}})
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	cluster := testcluster.StartReal(t, "--registry", port)
	host := net.JoinHostPort(cluster.Node, port)
	login := crane.WithAuth(&authn.Basic{Username: "job", Password: "pushes"})
	if err := crane.Push(testcluster.Image(t, "testdata/hello"), host+"/shop/hello:1", login, crane.Insecure); err != nil {
		t.Fatal(err)
	}

	client, err := kubernetes.NewForConfig(cluster.Config)
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte("node:pulls")))
	_, err = client.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "login"}, Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(config)},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// The one without a login is the first: the image is not there yet.
	for _, test := range []struct {
		name   string
		logins []corev1.LocalObjectReference
		want   string
	}{
		{"nobody", nil, "ErrImagePull or ImagePullBackOff"},
		{"node", []corev1.LocalObjectReference{{Name: "login"}}, "Succeeded"},
	} {
		_, err := client.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: test.name},
			Spec: corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever, ImagePullSecrets: test.logins,
				Containers: []corev1.Container{{Name: "hello", Image: host + "/shop/hello:1"}},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := outcome(t, client, test.name); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
	text, err := client.CoreV1().Pods("default").GetLogs("node", &corev1.PodLogOptions{}).DoRaw(t.Context())
	if err != nil || string(text) != "hello from an image\n" {
		t.Errorf("log %q, %v", text, err)
	}
}

// outcome waits until a pod ends or its image cannot be pulled.
func outcome(t *testing.T, client kubernetes.Interface, name string) string {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		pod, err := client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			return string(pod.Status.Phase)
		}
		for _, c := range pod.Status.ContainerStatuses {
			if w := c.State.Waiting; w != nil && (w.Reason == "ErrImagePull" || w.Reason == "ImagePullBackOff") {
				return "ErrImagePull or ImagePullBackOff"
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("pod %s: %+v", name, pod.Status)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
