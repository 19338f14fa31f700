package show

import (
	"testing"

	"keelson.dev/keelson/internal/pipeline/config"
)

// What is printed reads as what it was, by GitLab's rules.
func TestYAML(t *testing.T) {
	text := `
job:
  script:
    - echo yes
    - "yes"
    - |
      if true; then
        echo 1
      fi
    - 'a: b # c'
    - "012"
    - ".5"
    - "12:30"
    - "- x"
    - "*x"
    - " lead"
    - "tab\tbed"
    - ""
  variables: {A: 012, B: yes, C: 1_000, D: 1.0, E: ~, F: "null", "on": x}
  tags: []
  rules:
    - if: '$X == "y"'
  empty: {}
`
	read := func(text string) *config.Node {
		t.Helper()
		doc, problems := config.Read(config.Options{Path: "x.yml", Text: []byte(text)})
		if problems.Failed() {
			t.Fatalf("%v\n%s", problems, text)
		}
		return doc.Root
	}
	before := read(text)
	out, err := YAML(before)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "", before, read(string(out)), string(out))
}

func same(t *testing.T, path string, a, b *config.Node, text string) {
	t.Helper()
	if a.Kind != b.Kind || a.Text != b.Text || len(a.Items) != len(b.Items) || len(a.Pairs) != len(b.Pairs) {
		t.Errorf("%s: %v %q is printed as %v %q in\n%s", path, a.Kind, a.Text, b.Kind, b.Text, text)
		return
	}
	for i := range a.Items {
		same(t, path+"[]", a.Items[i], b.Items[i], text)
	}
	for i := range a.Pairs {
		if a.Pairs[i].Key != b.Pairs[i].Key {
			t.Errorf("%s: key %q is printed as %q", path, a.Pairs[i].Key, b.Pairs[i].Key)
		}
		same(t, path+"."+a.Pairs[i].Key, a.Pairs[i].Value, b.Pairs[i].Value, text)
	}
}
