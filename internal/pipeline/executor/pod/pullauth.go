package pod

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// maxAuth bounds the logins of a job, in bytes.
const maxAuth = 256 << 10

// pullAuth gives the logins with which the images of a job are pulled, as a .dockerconfigjson: that of the job to the registry of its project
// (CI_REGISTRY), and those of DOCKER_AUTH_CONFIG, as with GitLab's runner. Nil: there are none. Note is for the log.
func pullAuth(vars pipeline.Variables) (config []byte, note string) {
	value := func(name string) string { v, _ := vars.Get(name); return v.Value }
	auths := map[string]json.RawMessage{}
	if registry, user, password := value("CI_REGISTRY"), value("CI_REGISTRY_USER"), value("CI_REGISTRY_PASSWORD"); registry != "" && user != "" && password != "" {
		login, _ := json.Marshal(map[string]string{ // plain data
			"username": user, "password": password, "auth": base64.StdEncoding.EncodeToString([]byte(user + ":" + password)),
		})
		auths[registry] = login
	}
	if text := strings.TrimSpace(value("DOCKER_AUTH_CONFIG")); text != "" {
		var given struct {
			Auths map[string]json.RawMessage `json:"auths"`
		}
		if err := json.Unmarshal([]byte(text), &given); err != nil || len(text) > maxAuth {
			note = "DOCKER_AUTH_CONFIG is not used: it is no JSON with auths, as docker login writes it, or too large"
		}
		for registry, login := range given.Auths {
			auths[registry] = login
		}
	}
	if len(auths) == 0 {
		return nil, note
	}
	config, err := json.Marshal(map[string]any{"auths": auths})
	if err != nil { // a login that is no JSON
		return nil, "the logins of the registries are not used: they are no JSON"
	}
	return config, note
}
