package config

import (
	"slices"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// idTokens gives the audiences of each token.
func (v value) idTokens() map[string][]string {
	if !v.isMap("config should be a hash") {
		return nil
	}
	tokens := make(map[string][]string, len(v.Pairs))
	for _, f := range v.fields() {
		if !f.isMap("config should be a hash") {
			continue
		}
		f.checkVariableName()
		f.allow("aud")
		audiences := f.field("aud")
		if f.Get("aud") == nil {
			f.fail(codeRequired, "config missing required keys: aud")
			continue
		}
		if !audiences.set() {
			audiences.wrong("should be an array of strings or a string")
			continue
		}
		tokens[f.key()] = audiences.stringsOrString()
	}
	return tokens
}

func (v value) checkVariableName() {
	if !isIdentifier(v.key()) {
		v.d.report(pipeline.Warning, codeVariable, v.place(), "is a name that no shell can use", "use letters, digits and underscores", v.keyAt, v.via)
	}
}

// secretKeys are what stands under each provider of secrets; those that are required come first, up to the empty one.
var secretKeys = map[string][]string{
	"vault":                  {"engine", "path", "field", ""},
	"gcp_secret_manager":     {"name", "", "version"},
	"azure_key_vault":        {"name", "", "version"},
	"aws_secrets_manager":    {"secret_id", "", "version_id", "version_stage", "region", "role_arn", "role_session_name", "field"},
	"gitlab_secrets_manager": {"name", "", "source"},
}

var secretProviders = []string{"vault", "gcp_secret_manager", "azure_key_vault", "aws_secrets_manager", "gitlab_secrets_manager"}

func (v value) secrets() map[string]pipeline.Secret {
	if !v.isMap("config should be a hash") {
		return nil
	}
	secrets := make(map[string]pipeline.Secret, len(v.Pairs))
	for _, f := range v.fields() {
		if !f.isMap("config should be a hash") {
			continue
		}
		f.checkVariableName()
		f.allow(append([]string{"file", "token"}, secretProviders...)...)
		given := slices.DeleteFunc(slices.Clone(secretProviders), func(key string) bool { return f.Get(key) == nil })
		if len(given) != 1 {
			f.fail(codeRequired, "config must use exactly one of these keys: %s", strings.Join(secretProviders, ", "))
			continue
		}
		s := pipeline.Secret{Provider: given[0], File: true, Token: f.field("token").string()}
		if file := f.field("file"); file.set() {
			s.File = file.boolean()
		}
		provider := f.field(s.Provider)
		provider.checkSecret()
		s.Spec = goValue(provider.Node)
		if s.Provider == "gcp_secret_manager" && s.Token == "" {
			f.fail(codeRequired, "token is required with gcp secrets manager")
		}
		secrets[f.key()] = s
	}
	return secrets
}

// checkSecret checks what stands under a provider. Vault and AWS take a text in place of a map.
func (v value) checkSecret() {
	name := v.key()
	short := name == "vault" || name == "aws_secrets_manager"
	if !v.set() || v.Kind == String {
		if short {
			v.required()
		} else {
			v.wrong("config should be a hash")
		}
		return
	}
	if !v.isMap("config should be a hash") {
		return
	}
	keys := secretKeys[name]
	end := slices.Index(keys, "")
	v.allow(slices.Concat(keys[:end], keys[end+1:])...)
	for _, key := range keys[:end] {
		if !v.field(key).set() {
			v.fail(codeRequired, "config missing required keys: %s", key)
		}
	}
	for _, f := range v.fields() {
		switch {
		case !f.set() || !slices.Contains(keys, f.key()):
		case f.key() == "engine":
			if f.isMap("config should be a hash") {
				f.allow("name", "path")
				f.field("name").required()
				f.field("path").required()
			}
		case f.key() == "version" && f.Kind == Int: // of GCP
		default:
			f.string()
		}
	}
}

// article puts "a" or "an" before the name of a type.
func article(name string) string {
	if name == "array" {
		return "an array"
	}
	return "a " + name
}

// maxInputs bounds the inputs of a job.
const maxInputs = 50

// decodeInputs decodes the inputs of a job, each with its default.
func decodeInputs(v value, j *pipeline.JobSpec) {
	if !v.isMap("config should be a hash") {
		return
	}
	if len(v.Pairs) > maxInputs {
		v.fail(codeLimit, "has too many entries (maximum %d)", maxInputs)
		return
	}
	for _, f := range v.fields() {
		if !f.isMap("config should be a hash") {
			continue
		}
		f.allow("default", "description", "options", "regex", "type")
		spec := pipeline.InputSpec{Name: f.key(), Type: "string", At: f.keyAt, Regex: f.field("regex").string(), Description: f.field("description").string()}
		if t := f.field("type"); t.set() {
			spec.Type = t.oneOf("string", "number", "boolean", "array")
		}
		if options := f.field("options"); options.set() {
			spec.Options, _ = goValue(options.Node).([]any)
			if options.Kind != List {
				options.wrong("should be an array")
			} else if len(options.Items) > maxInputs {
				options.fail(codeLimit, "config cannot define more than %d options", maxInputs)
			}
		}
		if def := f.field("default"); def.set() {
			spec.Default = &pipeline.Input{Value: goValue(def.Node), At: def.at()}
			kinds := map[string][]Kind{"string": {String}, "number": {Int, Float}, "boolean": {Bool}, "array": {List}}[spec.Type]
			if kinds != nil && !slices.Contains(kinds, def.Kind) {
				def.hint(codeType, def.quoteHint(), "value is not %s, found %s", article(spec.Type), def.described())
			}
		} else {
			f.fail(codeRequired, "must have a default value")
		}
		j.Inputs = append(j.Inputs, spec)
	}
	v.warn(codeUnsupported, "use `variables`", "of a job are checked, but not put into its scripts yet")
}
