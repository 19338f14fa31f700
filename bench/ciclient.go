package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// ciClient asks the API of pipelines, as a dashboard does.
type ciClient struct {
	base, token string
	http        *http.Client
}

// ci gives the client of an instance.
func (i *instance) ci() (*ciClient, error) {
	u, err := url.Parse(i.Git)
	if err != nil || u.User == nil {
		return nil, errors.New("read the Git host's URL: it is malformed")
	}
	token, _ := u.User.Password()
	return &ciClient{
		base: "http://" + u.Host, token: token,
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}, // no proxy
	}, nil
}

// open sends a request; the answer is the caller's to close.
func (c *ciClient) open(ctx context.Context, method, path, accept string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Accept", accept)
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode >= http.StatusBadRequest {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1000))
		return nil, errors.Join(fmt.Errorf("%s %s: %s: %s", method, path, res.Status, text), res.Body.Close())
	}
	return res, nil
}

// call sends a request, reads the whole answer, and decodes it where somebody wants that.
func (c *ciClient) call(ctx context.Context, method, path string, body []byte, into any) error {
	res, err := c.open(ctx, method, path, "application/json", body)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(res.Body)
	if err = errors.Join(err, res.Body.Close()); err != nil || into == nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// ciEvent is an event of a stream, and when it was there.
type ciEvent struct {
	at   time.Time
	name string
	data []byte
}

// stream reads events into a channel, which is closed at its end. It ends with ctx.
func (c *ciClient) stream(ctx context.Context, path string) (<-chan ciEvent, error) {
	res, err := c.open(ctx, http.MethodGet, path, "text/event-stream", nil) //nolint:bodyclose // whoever reads the events closes it
	if err != nil {
		return nil, err
	}
	events := make(chan ciEvent, 1000)
	go func() {
		defer close(events)
		defer res.Body.Close()
		lines := bufio.NewScanner(res.Body)
		lines.Buffer(nil, 1<<20)
		e := ciEvent{}
		for lines.Scan() {
			field, value, _ := strings.Cut(lines.Text(), ": ")
			switch field {
			case "event":
				e.name = value
			case "data":
				e.data = []byte(value)
			case "":
				if e.at = time.Now(); e.data != nil {
					select {
					case events <- e:
					case <-ctx.Done():
						return
					}
				}
				e = ciEvent{}
			}
		}
	}()
	return events, nil
}

// ciJob is a job as the API tells of it.
type ciJob struct {
	ID       int64     `json:"id"`
	Name     string    `json:"name"`
	Status   string    `json:"status"`
	Message  string    `json:"message"`
	Created  time.Time `json:"created"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
}

// ciPipeline is a pipeline as the API tells of it.
type ciPipeline struct {
	ID       int64     `json:"id"`
	Status   string    `json:"status"`
	Why      string    `json:"why"`
	Created  time.Time `json:"created"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	Resting  bool      `json:"resting"`
	Jobs     []ciJob   `json:"jobs"`
}

// rested waits until a pipeline rests, and gives it. One that has not succeeded is an error.
func (c *ciClient) rested(ctx context.Context, id int64) (ciPipeline, error) {
	for {
		var p ciPipeline
		if err := c.call(ctx, http.MethodGet, fmt.Sprintf("/api/v1/pipelines/%d", id), nil, &p); err != nil {
			return p, err
		}
		if p.Resting && p.Status != "success" {
			return p, fmt.Errorf("pipeline %d is %s: %s %+v", id, p.Status, p.Why, p.Jobs)
		}
		if p.Resting {
			return p, nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return p, err
		}
	}
}

// trigger makes a pipeline of a project.
func (c *ciClient) trigger(ctx context.Context, project string) (int64, error) {
	body, err := json.Marshal(map[string]string{"project": project})
	if err != nil {
		return 0, err
	}
	var made ciPipeline
	err = c.call(ctx, http.MethodPost, "/api/v1/pipelines", body, &made)
	return made.ID, err
}
