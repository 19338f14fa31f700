package main

import (
	"net/http"
	"slices"
	"sync"
	"time"

	"keelson.dev/keelson/internal/identity"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/web"
)

// apiDocument is the OpenAPI document of all of /api/v1.
var apiDocument = sync.OnceValues(func() ([]byte, error) { return web.OpenAPI(version, apiRoutes()) })

// apiRoutes are all routes below /api/v1.
func apiRoutes() []web.Route { return slices.Concat(web.Routes(), identityRoutes()) }

// What is sent to, and answered by, the routes of people, where the room has no types of its own for it.
type (
	credentials struct {
		User     string `json:"user,omitempty"`
		Password string `json:"password,omitempty"`
		Token    string `json:"token,omitempty"` // in place of both
	}
	deviceAsk struct {
		Name   string `json:"name,omitempty"`   // of the terminal, to begin
		Code   string `json:"code,omitempty"`   // with secret: has the person let it in
		Secret string `json:"secret,omitempty"` // that the terminal was given
	}
	newPassword struct {
		Password string `json:"password"`
		Current  string `json:"current,omitempty"` // one's own, to change it
	}
	userList struct {
		Users []store.User `json:"users"`
		Next  string       `json:"next,omitempty"`
	}
	tokenList struct {
		Tokens []store.AccessToken `json:"tokens"`
	}
	madeLink struct {
		Path    string    `json:"path"`
		Expires time.Time `json:"expires"`
	}
)

// identityRoutes describes the routes of internal/identity.
func identityRoutes() []web.Route {
	routes := []web.Route{
		{Pattern: "GET /api/v1/me", Summary: "Who is logged in, and how one can log in", Answer: identity.Me{}},
		{Pattern: "POST /api/v1/session", Summary: "Log in with user and password, or with a token", Body: credentials{}, Answer: identity.Me{}, Open: true},
		{Pattern: "DELETE /api/v1/session", Summary: "Log out", Status: http.StatusNoContent},
		{Pattern: "POST /api/v1/session/device", Summary: "Begin the login of a terminal, or ask whether its person has let it in; 202: not yet", Body: deviceAsk{}, Answer: identity.DeviceLogin{}, Open: true},
		{Pattern: "POST /api/v1/login-links", Summary: "A link that logs in once, for whoever has the instance's token", Answer: madeLink{}},
		{Pattern: "GET /api/v1/users", Summary: "List the local users", Answer: userList{}, Query: []web.Param{
			{Name: "after", What: "the next of the page before"}, {Name: "limit", What: "users of a page", Kind: "integer"},
		}},
		{Pattern: "POST /api/v1/users", Summary: "Add a local user", Body: identity.NewUser{}, Answer: store.User{}, Status: http.StatusCreated},
		{Pattern: "DELETE /api/v1/users/{user}", Summary: "Remove a local user", Status: http.StatusNoContent},
		{Pattern: "POST /api/v1/users/{user}/password", Summary: "Set a password", Body: newPassword{}, Status: http.StatusNoContent},
	}
	for base, whose := range map[string]string{"/api/v1/tokens": "one's own", "/api/v1/users/{user}/tokens": "a user's"} {
		routes = append(routes,
			web.Route{Pattern: "GET " + base, Summary: "List " + whose + " access tokens", Answer: tokenList{}},
			web.Route{Pattern: "POST " + base, Summary: "Make an access token; it is told this once", Body: identity.NewToken{}, Answer: identity.MadeToken{}, Status: http.StatusCreated},
			web.Route{Pattern: "DELETE " + base + "/{token}", Summary: "Remove an access token", Status: http.StatusNoContent},
		)
	}
	return routes
}
