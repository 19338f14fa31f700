package notify

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net/url"
	"slices"
	"strings"

	notificationv1beta3 "github.com/fluxcd/notification-controller/api/v1beta3"
	eventv1 "github.com/fluxcd/pkg/apis/event/v1beta1"
)

// format is how a type of Provider is told.
type format struct {
	write      func(t Target, e eventv1.Event) ([]Request, error)
	address    string // where it is, unless the Provider says otherwise
	commit     bool   // it sets the status of a commit
	repository bool   // the address is that of a repository
	token      bool   // it needs one
	channel    bool   // the same
	outcomes   bool   // what is under way is not told
	most       int    // bytes of a message; zero: MaxMessage
}

var formats map[string]format

func init() {
	formats = map[string]format{
		notificationv1beta3.GenericProvider:        {write: generic},
		notificationv1beta3.GenericHMACProvider:    {write: generic, token: true},
		notificationv1beta3.SlackProvider:          {write: slack},
		notificationv1beta3.DiscordProvider:        {write: discord, most: 3500},
		notificationv1beta3.RocketProvider:         {write: rocket},
		notificationv1beta3.MSTeamsProvider:        {write: teams},
		notificationv1beta3.GoogleChatProvider:     {write: googleChat, most: 3000},
		notificationv1beta3.WebexProvider:          {write: webex, token: true, channel: true, most: 5000},
		notificationv1beta3.TelegramProvider:       {write: telegram, address: "https://api.telegram.org", token: true, channel: true, most: 1800},
		notificationv1beta3.Matrix:                 {write: matrix, token: true, channel: true},
		notificationv1beta3.LarkProvider:           {write: lark},
		notificationv1beta3.ZulipProvider:          {write: zulip, channel: true},
		notificationv1beta3.GrafanaProvider:        {write: grafana},
		notificationv1beta3.AlertManagerProvider:   {write: alertmanager},
		notificationv1beta3.OpsgenieProvider:       {write: opsgenie, token: true},
		notificationv1beta3.PagerDutyProvider:      {write: pagerDuty, channel: true, outcomes: true},
		notificationv1beta3.DataDogProvider:        {write: dataDog, token: true, most: 3900},
		notificationv1beta3.GitHubDispatchProvider: {write: githubDispatch, repository: true, token: true},
		notificationv1beta3.GitHubProvider:         {write: github, commit: true, token: true, outcomes: true},
		notificationv1beta3.GitLabProvider:         {write: gitlab, commit: true, token: true, outcomes: true},
		notificationv1beta3.GiteaProvider:          {write: gitea, commit: true, token: true},
	}
}

// Types gives the types of Providers that are served, sorted.
func Types() (all []string) {
	for name := range formats {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// Requests gives the requests, in their order, that tell a Provider about an event, which [Rule.Event] has made; none where it is
// nothing for this Provider. n is the event as it came.
func (t Target) Requests(alert *notificationv1beta3.Alert, n News, e eventv1.Event) ([]Request, error) {
	f, ok := formats[t.Type]
	switch {
	case !ok:
		return nil, fmt.Errorf("type %s is not supported", t.Type)
	case n.statusOnly() && !f.commit, f.outcomes && progressing(e), f.commit && (commitOf(e) == "" || !progressing(e) && !verdict(e)):
		return nil, nil
	}
	most := f.most
	if most == 0 {
		most = MaxMessage
	}
	e.Message = cut(e.Message, most)
	if f.commit && t.expr != "" {
		id, err := statusName(t.expr, alert, t.spec, e)
		if err != nil {
			return nil, fmt.Errorf("spec.commitStatusExpr: %w", err)
		}
		t.Channel = id
	} else if f.commit {
		t.Channel = defaultStatusName(t.UID, e)
	}
	return f.write(t, e)
}

// objectTitle names an object as messages do: kustomization/NAME.NAMESPACE.
func objectTitle(e eventv1.Event) string {
	o := e.InvolvedObject
	return strings.ToLower(o.Kind) + "/" + o.Name + "." + o.Namespace
}

// verdict tells of an event that says how its object stands: that drift was repaired, say, does not.
func verdict(e eventv1.Event) bool { return failed(e) || recovered(e) }

func failed(e eventv1.Event) bool { return e.Severity == eventv1.EventSeverityError }

// either gives one of two texts, by whether an event is bad news.
func either(e eventv1.Event, bad, good string) string {
	if failed(e) {
		return bad
	}
	return good
}

// words splits a reason into words: "HTTPCheckFailed" is "http check failed".
func words(reason string) string {
	class := func(c byte) int {
		switch {
		case c >= 'a' && c <= 'z':
			return 1
		case c >= 'A' && c <= 'Z':
			return 2
		case c >= '0' && c <= '9':
			return 3
		}
		return 4
	}
	var out []byte
	for i := range len(reason) {
		if i > 0 {
			was, is := class(reason[i-1]), class(reason[i])
			next := i+1 < len(reason) && class(reason[i+1]) == 1
			if was != is && (was != 2 || is != 1) || was == 2 && is == 2 && next {
				out = append(out, ' ')
			}
		}
		out = append(out, reason[i])
	}
	return strings.ToLower(string(out))
}

func generic(t Target, e eventv1.Event) ([]Request, error) {
	r, err := post(t.Address, e)
	if err != nil {
		return nil, err
	}
	r.header("Gotk-Component", e.ReportingController)
	for k, v := range t.Headers {
		r.header(k, v)
	}
	if t.Type == notificationv1beta3.GenericHMACProvider {
		r.header("X-Signature", signature(t.Token, r.Body))
	}
	return []Request{r}, nil
}

type slackField struct {
	Title string `json:"title"`
	Value string `json:"value"`
	Short bool   `json:"short"`
}

type slackAttachment struct {
	Color      string       `json:"color"`
	AuthorName string       `json:"author_name"`
	Text       string       `json:"text"`
	MrkdwnIn   []string     `json:"mrkdwn_in"`
	Fields     []slackField `json:"fields"`
}

type slackPayload struct {
	Channel     string            `json:"channel"`
	Username    string            `json:"username"`
	IconURL     string            `json:"icon_url"`
	IconEmoji   string            `json:"icon_emoji"`
	Text        string            `json:"text,omitempty"`
	Attachments []slackAttachment `json:"attachments,omitempty"`
}

// slackMessage makes a message of an attachment; escape is what the service wants done with texts.
func slackMessage(t Target, e eventv1.Event, bad, good string, escape func(string) string) slackPayload {
	a := slackAttachment{
		Color: either(e, bad, good), AuthorName: objectTitle(e), Text: escape(e.Message), MrkdwnIn: []string{"text"}, Fields: []slackField{},
	}
	for _, k := range keysOf(e.Metadata) {
		a.Fields = append(a.Fields, slackField{Title: escape(k), Value: escape(e.Metadata[k])})
	}
	return slackPayload{Channel: t.Channel, Username: t.Username, Attachments: []slackAttachment{a}}
}

// quiet breaks what services take for a mention of somebody, or of everybody: @all, @**all**, <@all>, <!channel>. Digests stay as they are, to be copied.
var quiet = strings.NewReplacer("@sha1:", "@sha1:", "@sha256:", "@sha256:", "@", "@\u200b", "<!", "<\u200b!")

var slackEscapes = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

func slack(t Target, e eventv1.Event) ([]Request, error) {
	if t.Username == "" {
		t.Username = e.ReportingController
	}
	r, err := post(t.Address, slackMessage(t, e, "danger", "good", slackEscapes.Replace)) // <!channel> would call everybody
	if err != nil {
		return nil, err
	}
	r.bearer(t.Token)
	if u, err := url.Parse(t.Address); err == nil && u.Path == "/api/chat.postMessage" {
		r.rejects = slackRejects
	}
	return []Request{r}, nil
}

// slackRejects reads the answer of Slack's API, which is 200 for an error too.
func slackRejects(status int, body []byte) (string, bool) {
	var answer struct {
		OK    bool   `json:"ok"`
		Error string `json:"error"`
	}
	if status != 200 {
		return "", false
	}
	if json.Unmarshal(body, &answer) != nil {
		return "the answer is not Slack's", false
	}
	if !answer.OK && answer.Error == "" {
		answer.Error = "no reason is given"
	}
	return answer.Error, answer.OK
}

// discord is told in Slack's way, which it takes below its webhooks.
func discord(t Target, e eventv1.Event) ([]Request, error) {
	if u, err := url.Parse(t.Address); err == nil && !strings.HasSuffix(u.Path, "/slack") {
		t.Address = u.JoinPath("slack").String()
	}
	if t.Username == "" {
		t.Username = e.ReportingController
	}
	t.Channel = ""
	return one(t.Address, slackMessage(t, e, "danger", "good", quiet.Replace))
}

func rocket(t Target, e eventv1.Event) ([]Request, error) {
	return one(t.Address, slackMessage(t, e, "#FF0000", "#0076D7", quiet.Replace))
}

type chatText struct {
	Text string `json:"text"`
}

type chatValue struct {
	TopLabel         string  `json:"topLabel"`
	Content          string  `json:"content"`
	ContentMultiline bool    `json:"contentMultiline"`
	BottomLabel      *string `json:"bottomLabel"`
	Icon             *string `json:"icon"`
}

type chatWidget struct {
	TextParagraph *chatText  `json:"textParagraph"`
	KeyValue      *chatValue `json:"keyValue"`
}

type chatSection struct {
	Header  string       `json:"header"`
	Widgets []chatWidget `json:"widgets"`
}

func googleChat(t Target, e eventv1.Event) ([]Request, error) {
	text := html.EscapeString(e.Message) // cards take a part of HTML
	if failed(e) {
		text = `<font color="#ff0000">` + text + `</font>`
	}
	sections := []chatSection{{Widgets: []chatWidget{{TextParagraph: &chatText{text}}}}}
	if len(e.Metadata) > 0 {
		var s chatSection
		for _, k := range keysOf(e.Metadata) {
			s.Widgets = append(s.Widgets, chatWidget{KeyValue: &chatValue{TopLabel: k, Content: html.EscapeString(e.Metadata[k])}})
		}
		sections = append(sections, s)
	}
	return one(t.Address, map[string]any{"cards": []any{map[string]any{
		"header":   map[string]any{"title": objectTitle(e), "subtitle": e.ReportingController, "imageUrl": nil, "imageStyle": nil},
		"sections": sections,
	}}})
}

type grafanaNote struct {
	When int64    `json:"when"` // seconds
	Text string   `json:"text"`
	Tags []string `json:"tags,omitempty"`
}

func grafana(t Target, e eventv1.Event) ([]Request, error) {
	o := e.InvolvedObject
	tags := []string{"flux", e.ReportingController}
	plain := strings.NewReplacer(":", "|")
	for _, k := range keysOf(e.Metadata) {
		tags = append(tags, plain.Replace(k)+": "+plain.Replace(e.Metadata[k]))
	}
	tags = append(tags, "kind: "+o.Kind, "name: "+o.Name, "namespace: "+o.Namespace)
	r, err := post(t.Address, grafanaNote{When: e.Timestamp.Unix(), Text: objectTitle(e), Tags: tags})
	if err != nil {
		return nil, err
	}
	if t.Token == "" {
		r.basic(t)
	}
	r.bearer(t.Token)
	return []Request{r}, nil
}

// alertmanagerAlert is an alert of Prometheus Alertmanager's API.
type alertmanagerAlert struct {
	Status      string            `json:"status"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    string            `json:"startsAt"`
}

func alertmanager(t Target, e eventv1.Event) ([]Request, error) {
	a := alertmanagerAlert{
		Status: "firing", Annotations: map[string]string{"message": e.Message}, Labels: map[string]string{}, StartsAt: e.Timestamp.UTC().Format(rfc3339),
	}
	for k, v := range e.Metadata {
		if k == summaryKey {
			a.Annotations[k] = v
			continue
		}
		a.Labels[labelName(k)] = v
	}
	o := e.InvolvedObject
	for k, v := range map[string]string{
		"alertname": "Flux" + o.Kind + titled(e.Reason), "severity": e.Severity, "reason": e.Reason, "kind": o.Kind, "name": o.Name,
		"namespace": o.Namespace, "reportingcontroller": e.ReportingController,
	} {
		a.Labels[k] = v
	}
	r, err := post(t.Address, []alertmanagerAlert{a})
	if err != nil {
		return nil, err
	}
	r.bearer(t.Token)
	r.basic(t)
	return []Request{r}, nil
}

const rfc3339 = "2006-01-02T15:04:05Z07:00"

// titled writes a word with one capital, as notification-controller does in the names of alerts.
func titled(reason string) string {
	if reason == "" {
		return ""
	}
	return strings.ToUpper(reason[:1]) + strings.ToLower(reason[1:])
}

// labelName makes a label's name of a key: Alertmanager refuses others.
func labelName(key string) string {
	b := []byte(key)
	for i, c := range b {
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9' || i == 0) {
			b[i] = '_'
		}
	}
	return string(b)
}

func opsgenie(t Target, e eventv1.Event) ([]Request, error) {
	details := map[string]string{"severity": e.Severity}
	for k, v := range e.Metadata {
		if k != "severity" {
			details[k] = v
		}
	}
	r, err := post(t.Address, map[string]any{
		"message": e.InvolvedObject.Kind + "/" + e.InvolvedObject.Name, "description": e.Message, "details": details,
	})
	if err != nil {
		return nil, err
	}
	r.header("Authorization", "GenieKey "+t.Token)
	return []Request{r}, nil
}

func dataDog(t Target, e eventv1.Event) ([]Request, error) {
	o := e.InvolvedObject
	tags := []string{
		"flux_reporting_controller:" + e.ReportingController, "flux_reason:" + e.Reason,
		"kube_kind:" + o.Kind, "kube_name:" + o.Name, "kube_namespace:" + o.Namespace,
	}
	for _, k := range keysOf(e.Metadata) {
		tags = append(tags, k+":"+e.Metadata[k])
	}
	for i := range tags {
		tags[i] = strings.ToLower(tags[i])
	}
	u, err := url.Parse(t.Address)
	if err != nil {
		return nil, errors.New("the address is no URL")
	}
	r, err := post(u.JoinPath("api/v1/events").String(), map[string]any{
		"title": fmt.Sprintf("Events from the %s %s/%s", o.Kind, o.Name, o.Namespace), "text": e.Message, "tags": tags,
		"source_type_name": "fluxcd", "date_happened": e.Timestamp.Unix(), "alert_type": either(e, "error", "info"),
	})
	if err != nil {
		return nil, err
	}
	r.header("DD-API-KEY", t.Token)
	return []Request{r}, nil
}

// pagerDuty opens an incident, or tells what has changed; what is well again has its incident closed.
func pagerDuty(t Target, e eventv1.Event) ([]Request, error) {
	u, err := url.Parse(t.Address)
	if err != nil {
		return nil, errors.New("the address is no URL")
	}
	base := u.Scheme + "://" + u.Host
	payload := map[string]any{
		"summary": cut(words(e.Reason)+": "+strings.ToLower(e.InvolvedObject.Kind+"/"+e.InvolvedObject.Name), 1000), "source": "Flux " + e.ReportingController,
		"timestamp": e.Timestamp.UTC().Format(rfc3339), "custom_details": map[string]any{"message": e.Message, "metadata": e.Metadata},
	}
	incident := map[string]any{"routing_key": t.Channel, "dedup_key": string(e.InvolvedObject.UID), "event_action": "resolve"}
	if failed(e) {
		payload["severity"], payload["component"], payload["group"] = "error", e.InvolvedObject.Name, e.InvolvedObject.Kind
		incident["event_action"], incident["payload"] = "trigger", payload
		return one(base+"/v2/enqueue", incident)
	}
	changed, err := post(base+"/v2/change/enqueue", map[string]any{"routing_key": t.Channel, "payload": payload})
	if err != nil || !recovered(e) {
		return []Request{changed}, err
	}
	closed, err := post(base+"/v2/enqueue", incident)
	return []Request{closed, changed}, err
}
