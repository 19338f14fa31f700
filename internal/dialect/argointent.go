package dialect

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"io"
	"strings"
)

// Bounds of an Application's intent, in bytes.
const (
	maxPlainIntent  = 16 << 10  // above, it is packed
	maxPackedIntent = 160 << 10 // as it is written
	maxUnpacked     = 4 << 20   // as it is read
	maxAnnotations  = 256 << 10 // of an object, names and values together (Kubernetes' TotalAnnotationSizeLimitB)
)

// packedPrefix begins an intent that is packed: gzip, then base64.
const packedPrefix = "gzip:"

func packed(b []byte) string {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	w.Write(b) //nolint:errcheck // neither fails: a buffer takes all
	w.Close()  //nolint:errcheck // a buffer takes everything
	return packedPrefix + base64.StdEncoding.EncodeToString(buf.Bytes())
}

// unpacked is the inverse of packed, and gives what is not packed as it is. Of what is broken or too large it gives nothing.
func unpacked(text string) []byte {
	rest, ok := strings.CutPrefix(text, packedPrefix)
	if !ok {
		return []byte(text)
	}
	r, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(rest)))
	if err != nil {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(r, maxUnpacked+1))
	if err != nil || len(b) > maxUnpacked {
		return nil
	}
	return b
}

// roomForIntent is how long an intent may be beside other annotations. Some is left for those that come while it stands.
func roomForIntent(others map[string]string) int {
	room := maxAnnotations - len(IntentAnnotation) - 4<<10
	for k, v := range others {
		room -= len(k) + len(v)
	}
	return min(room, maxPackedIntent)
}
