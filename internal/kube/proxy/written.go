package proxy

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	cbor "k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Written is a write that the cluster has accepted. It may have changed nothing: a patch that the object was like already.
// Dry runs are none, nor is what leaves no object: reviews, tokens, exec and its like. Of a write whose answer did not come (the job
// was ended, the API server was lost) nobody knows, and it is not told.
type Written struct {
	Verb        string // create, update, patch, delete or deletecollection
	Group       string // of the API; empty: the core
	Version     string
	Resource    string // "deployments"
	Subresource string // "scale"; empty: the object itself
	Namespace   string // empty: the cluster's
	Name        string // empty for deletecollection: all that its selectors match
	Created     bool   // the object was not there before: also an apply can do that

	// These are what the answer says of the object, and may be empty.
	Kind            string // "Deployment"
	UID             types.UID
	ResourceVersion string
}

// The bounds of what is read to know what was written, in bytes. Objects are smaller: an API server keeps 1.5 MiB of one.
const maxAnswer, maxDeleteOptions = 16 << 20, 1 << 20

// verbs are those that write.
var verbs = []string{"create", "update", "patch", "delete", "deletecollection"}

// traceless are the groups and subresources whose writes leave no object.
var (
	tracelessGroups = []string{"authorization.k8s.io", "authentication.k8s.io"}
	traceless       = append([]string{"token"}, streams...)
)

// writeOf gives what a request writes if it is accepted; nil: nothing. It may read the body, and puts it back.
func writeOf(r *http.Request, info *request.RequestInfo) (*Written, *refusal) {
	if !info.IsResourceRequest || !slices.Contains(verbs, info.Verb) || slices.Contains(tracelessGroups, info.APIGroup) ||
		slices.Contains(traceless, info.Subresource) {
		return nil, nil
	}
	if slices.ContainsFunc(r.URL.Query()["dryRun"], func(v string) bool { return v != "" }) {
		return nil, nil
	}
	if r.Method == http.MethodDelete && r.ContentLength != 0 {
		dry, wrong := dryDelete(r)
		if dry || wrong != nil {
			return nil, wrong
		}
	}
	w := &Written{
		Verb: info.Verb, Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource, Subresource: info.Subresource,
		Namespace: info.Namespace, Name: info.Name,
	}
	if w.Resource == "namespaces" {
		w.Namespace = "" // to an API server a Namespace lies in itself
	}
	return w, nil
}

// dryDelete tells whether a delete only tries: unlike other requests it may say so in its body.
func dryDelete(r *http.Request) (bool, *refusal) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxDeleteOptions+1))
	if err != nil {
		return false, badRequest("the request's body did not come")
	}
	if len(body) > maxDeleteOptions {
		return false, tooLarge(maxDeleteOptions)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	r.TransferEncoding = nil
	var options metav1.DeleteOptions
	err = decode(r.Header.Get("Content-Type"), body, &options, func(raw *runtime.Unknown) error { return options.Unmarshal(raw.Raw) })
	return err == nil && len(options.DryRun) > 0, nil // what is no options the server refuses
}

// tell tells whoever gave the grant what was written, before the client has the answer.
func tell(resp *http.Response) error {
	way := passageOf(resp.Request.Context())
	if way == nil || way.write == nil || way.OnWrite == nil || resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil
	}
	written := *way.write
	written.Created = resp.StatusCode == http.StatusCreated && written.Subresource == ""
	if written.Verb == "deletecollection" { // it answers with what was there, which may be much
		way.OnWrite(written)
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		// The write is done all the same; only its answer got lost.
		way.OnWrite(written)
		return err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), resp.Body), resp.Body}
	written.read(resp.Header.Get("Content-Type"), body)
	way.OnWrite(written)
	return nil
}

// answer is the part of an object, or of a Status, that says what it is.
type answer struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name            string    `json:"name"`
		UID             types.UID `json:"uid"`
		ResourceVersion string    `json:"resourceVersion"`
	} `json:"metadata"`
	Details struct {
		UID types.UID `json:"uid"`
	} `json:"details"`
}

// read takes from an answer what it says of the object. An answer that cannot be read says nothing.
func (w *Written) read(contentType string, body []byte) {
	var a answer
	if decode(contentType, body, &a, a.unmarshal) != nil {
		return
	}
	if a.Kind == "Status" {
		w.UID = a.Details.UID
		return
	}
	if w.Name == "" {
		w.Name = a.Metadata.Name
	}
	if w.Subresource == "" || w.Subresource == "status" {
		w.Kind, w.UID, w.ResourceVersion = a.Kind, a.Metadata.UID, a.Metadata.ResourceVersion
	}
}

// unmarshal reads an object of any kind: in protobuf the first field of each is its metadata.
func (a *answer) unmarshal(raw *runtime.Unknown) error {
	a.Kind = raw.Kind
	if a.Kind == "Status" {
		var s metav1.Status
		err := s.Unmarshal(raw.Raw)
		if err == nil && s.Details != nil {
			a.Details.UID = s.Details.UID
		}
		return err
	}
	var o metav1.PartialObjectMetadata
	err := o.Unmarshal(raw.Raw)
	a.Metadata.Name, a.Metadata.UID, a.Metadata.ResourceVersion = o.Name, o.UID, o.ResourceVersion
	return err
}

// protobufMagic is what a protobuf message of the Kubernetes API begins with.
var protobufMagic = []byte("k8s\x00")

var errNotRead = errors.New("a content type that is not known")

// decode reads a body in one of the formats of the Kubernetes API, with its own readers: what they take for the name of a field counts.
func decode(contentType string, body []byte, into any, protobuf func(*runtime.Unknown) error) error {
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil && contentType != "" {
		return err
	}
	switch media {
	case "application/vnd.kubernetes.protobuf":
		rest, ok := bytes.CutPrefix(body, protobufMagic)
		if !ok {
			return errNotRead
		}
		var raw runtime.Unknown
		if err := raw.Unmarshal(rest); err != nil {
			return err
		}
		return protobuf(&raw)
	case "application/cbor":
		return cbor.Unmarshal(body, into)
	case "", "application/json":
		return kjson.UnmarshalCaseSensitivePreserveInts(body, into)
	case "application/yaml":
		text, err := yaml.YAMLToJSON(body)
		if err != nil {
			return err
		}
		return kjson.UnmarshalCaseSensitivePreserveInts(text, into)
	default:
		return errNotRead
	}
}
