package deliver

import (
	"context"
	"errors"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

// reasonAuth is Flux's reason for credentials that are missing, or not usable.
const reasonAuth = "AuthenticationFailed"

// ReadSecrets reads the Secrets that a source names: its credentials, certificates, its proxy and the public keys it trusts. The reader
// should not be a cached one: Secrets are not to be kept in memory. What is missing or malformed is a [*delivery.Fault].
func ReadSecrets(ctx context.Context, reader client.Reader, src *delivery.Source) error {
	type use struct {
		name, reason, hint string
		take               func(map[string][]byte) error
	}
	uses := []use{
		{src.Secrets.Credentials, reasonAuth, credentialsHint(*src), func(data map[string][]byte) (err error) {
			was := src.Credentials
			if inRegistry(*src) {
				var found bool
				src.Credentials, found, err = dialect.RegistryCredentials(src.URL, data)
				if err == nil && !found && !src.OCI { // as upstream: an OCIRepository is asked without any then
					err = errors.New("its Docker configuration has nothing for this registry")
				}
			} else {
				src.Credentials, err = dialect.Credentials(*src, data)
			}
			c := &src.Credentials
			c.Proxy, c.Insecure, c.PlainHTTP, c.PassAll = was.Proxy, was.Insecure, was.PlainHTTP, was.PassAll
			return err
		}},
		{src.Secrets.Certificates, reasonAuth, "spec.certSecretRef needs a Secret with ca.crt, or tls.crt and tls.key, or all of them",
			func(data map[string][]byte) (err error) {
				src.Credentials, err = dialect.Certificates(src.Credentials, data)
				return err
			}},
		{src.Secrets.Proxy, reasonAuth, "spec.proxySecretRef needs a Secret with address and, if the proxy wants them, username and password",
			func(data map[string][]byte) (err error) {
				src.Credentials.Proxy, err = dialect.Proxy(data)
				return err
			}},
		{src.Secrets.Verify, "VerificationError", "spec.verify.secretRef needs a Secret with public keys: PGP below *.asc, SSH below *.sshpub",
			func(data map[string][]byte) (err error) {
				src.Verify.PGP, src.Verify.SSH, err = dialect.PublicKeys(data)
				return err
			}},
	}
	if src.GitHub && src.Secrets.Credentials == "" {
		return &delivery.Fault{Reason: "InvalidProviderConfiguration", Where: src.ID.String(), Retry: delivery.OnChange,
			Err: errors.New("spec.provider github needs spec.secretRef"), Hint: "name a Secret with the data of a GitHub App"}
	}
	for _, u := range uses {
		if u.name == "" {
			continue
		}
		var secret corev1.Secret
		err := reader.Get(ctx, client.ObjectKey{Namespace: src.ID.Namespace, Name: u.name}, &secret)
		if apierrors.IsNotFound(err) {
			err = errors.New("the Secret does not exist")
		}
		if err == nil {
			err = u.take(secret.Data)
		}
		if err != nil {
			return &delivery.Fault{Reason: u.reason, Where: "Secret/" + src.ID.Namespace + "/" + u.name, Err: err, Hint: u.hint}
		}
	}
	return readPullSecrets(ctx, reader, src)
}

// readPullSecrets reads the image pull secrets of a source's service account, unless there are credentials already. The first one that has
// some for the registry counts.
func readPullSecrets(ctx context.Context, reader client.Reader, src *delivery.Source) error {
	if c := src.Credentials; src.Secrets.Account == "" || c.Username != "" || c.BearerToken != "" {
		return nil
	}
	const hint = "spec.serviceAccountName needs a ServiceAccount, and each of its imagePullSecrets a Secret of the type kubernetes.io/dockerconfigjson"
	fault := func(kind, name string, err error) error {
		if apierrors.IsNotFound(err) {
			err = errors.New("the " + kind + " does not exist")
		}
		return &delivery.Fault{Reason: reasonAuth, Where: kind + "/" + src.ID.Namespace + "/" + name, Err: err, Hint: hint}
	}
	var account corev1.ServiceAccount
	if err := reader.Get(ctx, client.ObjectKey{Namespace: src.ID.Namespace, Name: src.Secrets.Account}, &account); err != nil {
		return fault("ServiceAccount", src.Secrets.Account, err)
	}
	for _, ref := range account.ImagePullSecrets {
		var secret corev1.Secret
		err := reader.Get(ctx, client.ObjectKey{Namespace: src.ID.Namespace, Name: ref.Name}, &secret)
		var found bool
		var c delivery.Credentials
		if err == nil {
			c, found, err = dialect.RegistryCredentials(src.URL, secret.Data)
		}
		if err != nil {
			return fault("Secret", ref.Name, err)
		}
		if found {
			src.Credentials.Username, src.Credentials.Password, src.Credentials.BearerToken = c.Username, c.Password, c.BearerToken
			return nil
		}
	}
	return nil
}

// inRegistry tells whether a source is in an OCI registry.
func inRegistry(src delivery.Source) bool {
	return src.OCI || src.Chart != "" && strings.HasPrefix(src.URL, "oci://")
}

// credentialsHint says what the Secret of a source should hold.
func credentialsHint(src delivery.Source) string {
	switch {
	case src.GitHub:
		return "spec.secretRef needs a Secret with githubAppID, githubAppPrivateKey, and githubAppInstallationID or githubAppInstallationOwner"
	case inRegistry(src):
		return "spec.secretRef needs a Secret of the type kubernetes.io/dockerconfigjson, or one with username and password"
	case dialect.OverSSH(src.URL):
		return "spec.secretRef needs a Secret with identity, known_hosts and, if the key is encrypted, password"
	}
	return "spec.secretRef needs a Secret with username and password, or bearerToken"
}
