package notify

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	eventv1 "github.com/fluxcd/pkg/apis/event/v1beta1"
)

type cardText struct {
	Type   string `json:"type"`
	Text   string `json:"text,omitempty"`
	Size   string `json:"size,omitempty"`
	Weight string `json:"weight,omitempty"`
	Color  string `json:"color,omitempty"`
	Wrap   bool   `json:"wrap,omitempty"`
}

type cardFact struct {
	Title string `json:"title"`
	Value string `json:"value"`
}

type cardFacts struct {
	Type  string     `json:"type"`
	Facts []cardFact `json:"facts,omitempty"`
}

type cardContainer struct {
	Type  string `json:"type"`
	Items []any  `json:"items,omitempty"`
}

type card struct {
	Schema  string            `json:"$schema"`
	Type    string            `json:"type"`
	Version string            `json:"version"`
	Body    []any             `json:"body"`
	MSTeams map[string]string `json:"msteams"`
}

type cardAttachment struct {
	ContentType string `json:"contentType"`
	Content     card   `json:"content"`
}

type cardMessage struct {
	Type        string           `json:"type"`
	Attachments []cardAttachment `json:"attachments"`
}

// teams writes an adaptive card for a workflow, and the older kind of card for an Office 365 connector.
func teams(t Target, e eventv1.Event) ([]Request, error) {
	if u, err := url.Parse(t.Address); err == nil && strings.HasSuffix(u.Hostname(), ".webhook.office.com") {
		return connector(t, e)
	}
	message := cardText{Type: "TextBlock", Text: e.Message, Wrap: true}
	if failed(e) {
		message.Color = "attention"
	}
	facts := cardFacts{Type: "FactSet"}
	for _, k := range keysOf(e.Metadata) {
		facts.Facts = append(facts.Facts, cardFact{k, e.Metadata[k]})
	}
	return one(t.Address, cardMessage{Type: "message", Attachments: []cardAttachment{{
		ContentType: "application/vnd.microsoft.card.adaptive",
		Content: card{
			Schema: "http://adaptivecards.io/schemas/adaptive-card.json", Type: "AdaptiveCard", Version: "1.4", // the newest that Teams shows
			MSTeams: map[string]string{"width": "Full"},
			Body: []any{cardContainer{Type: "Container", Items: []any{
				cardText{Type: "TextBlock", Text: objectTitle(e), Size: "large", Weight: "bolder", Wrap: true}, message, facts,
			}}},
		},
	}}})
}

func connector(t Target, e eventv1.Event) ([]Request, error) {
	type fact struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	facts := []fact{}
	for _, k := range keysOf(e.Metadata) {
		facts = append(facts, fact{k, e.Metadata[k]})
	}
	return one(t.Address, map[string]any{
		"@type": "MessageCard", "@context": "http://schema.org/extensions", "themeColor": either(e, "FF0000", "0076D7"), "summary": objectTitle(e),
		"sections": []any{map[string]any{"activityTitle": e.Message, "activitySubtitle": objectTitle(e), "facts": facts}},
	})
}

func webex(t Target, e eventv1.Event) ([]Request, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s **%s**\n%s\n", either(e, "💣", "✅"), objectTitle(e), quiet.Replace(e.Message))
	for _, k := range keysOf(e.Metadata) {
		fmt.Fprintf(&b, ">**%s**: %s\n", quiet.Replace(k), quiet.Replace(e.Metadata[k]))
	}
	r, err := post(t.Address, map[string]string{"roomId": t.Channel, "markdown": b.String()})
	if err != nil {
		return nil, err
	}
	r.bearer(t.Token)
	return []Request{r}, nil
}

// telegramEscapes are the characters that MarkdownV2 gives a meaning.
var telegramEscapes = func() *strings.Replacer {
	var pairs []string
	for _, c := range "\\.-_[]()~>`#+=|{}!*" {
		pairs = append(pairs, string(c), "\\"+string(c))
	}
	return strings.NewReplacer(pairs...)
}()

func telegram(t Target, e eventv1.Event) ([]Request, error) {
	o, esc := e.InvolvedObject, telegramEscapes.Replace
	text := fmt.Sprintf("*%s*\n%s\n", esc(fmt.Sprintf("%s %s/%s/%s", either(e, "🚨", "💫"), strings.ToLower(o.Kind), o.Name, o.Namespace)), esc(e.Message))
	for _, k := range keysOf(e.Metadata) {
		text += fmt.Sprintf("\\- *%s*: %s\n", esc(k), esc(e.Metadata[k]))
	}
	payload := map[string]string{"text": text, "parse_mode": "MarkdownV2"}
	chat, thread, ok := strings.Cut(t.Channel, ":")
	if payload["chat_id"] = chat; ok {
		payload["message_thread_id"] = thread
	}
	u, err := url.Parse(t.Address)
	if err != nil {
		return nil, errors.New("the address is no URL")
	}
	return one(u.JoinPath("bot"+t.Token, "sendMessage").String(), payload)
}

func matrix(t Target, e eventv1.Event) ([]Request, error) {
	text := fmt.Sprintf("%s %s\n%s\n", either(e, "🚨", "💫"), objectTitle(e), quiet.Replace(e.Message))
	for _, k := range keysOf(e.Metadata) {
		text += fmt.Sprintf("- %s: %s\n", quiet.Replace(k), quiet.Replace(e.Metadata[k]))
	}
	whole, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode the event: %w", err)
	}
	id := sha1.Sum(whole) // the same for the same message, so that a homeserver takes it once; no protection
	u, err := url.Parse(t.Address)
	if err != nil {
		return nil, errors.New("the address is no URL")
	}
	at := u.JoinPath("_matrix/client/r0/rooms", url.PathEscape(t.Channel), "send/m.room.message", hex.EncodeToString(id[:]))
	r, err := post(at.String(), map[string]string{"body": text, "msgtype": "m.text"})
	if err != nil {
		return nil, err
	}
	r.Method = "PUT"
	r.bearer(t.Token)
	return []Request{r}, nil
}

// larkEscapes lets no text be a tag: <at id=all></at> would call everybody.
var larkEscapes = strings.NewReplacer("<", "‹")

func lark(t Target, e eventv1.Event) ([]Request, error) {
	text := "**" + larkEscapes.Replace(e.Message) + "**\n\n"
	for _, k := range keysOf(e.Metadata) {
		text += larkEscapes.Replace(k+": "+e.Metadata[k]) + "\n"
	}
	return one(t.Address, map[string]any{"msg_type": "interactive", "card": map[string]any{
		"config": map[string]any{"wide_screen_mode": true},
		"header": map[string]any{
			"title":    map[string]any{"tag": "plain_text", "content": either(e, "🚨", "💫") + " " + objectTitle(e)},
			"template": either(e, "red", "turquoise"),
		},
		"elements": []any{map[string]any{"tag": "div", "text": map[string]any{"tag": "lark_md", "content": text}}},
	}})
}

func zulip(t Target, e eventv1.Event) ([]Request, error) {
	stream, topic, ok := strings.Cut(t.Channel, "/")
	if !ok || stream == "" || topic == "" {
		return nil, errors.New("spec.channel is not CHANNEL/TOPIC")
	}
	text := fmt.Sprintf("%s **%s**\n\n%s\n", either(e, "🚨", "💫"), objectTitle(e), quiet.Replace(e.Message))
	if len(e.Metadata) > 0 {
		text += "\n"
	}
	for _, k := range keysOf(e.Metadata) {
		text += fmt.Sprintf("* **%s**: %s\n", quiet.Replace(k), quiet.Replace(e.Metadata[k]))
	}
	u, err := url.Parse(t.Address)
	if err != nil {
		return nil, errors.New("the address is no URL")
	}
	u.Path, u.RawQuery = "/api/v1/messages", ""
	r := Request{
		Method: "POST", URL: u.String(), Headers: map[string]string{"Content-Type": "application/x-www-form-urlencoded"},
		Body: []byte(url.Values{"type": {"stream"}, "to": {stream}, "topic": {topic}, "content": {text}}.Encode()),
	}
	r.basic(t)
	return []Request{r}, nil
}

// basic adds a name and a password, where there are both.
func (r *Request) basic(t Target) {
	if t.Username != "" && t.Password != "" {
		r.header("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(t.Username+":"+t.Password)))
	}
}
