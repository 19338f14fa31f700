package web

import "net/http"

// asPerson is in front of a handler in tests: whoever has the token is who they say they are.
func asPerson(token string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer "+token {
			name := r.Header.Get("X-Keelson-User")
			if name == "" {
				name = "ann"
			}
			r = r.WithContext(WithPerson(r.Context(), Person{Name: name}))
		}
		next.ServeHTTP(w, r)
	})
}
