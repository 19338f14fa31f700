package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"

	authv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
)

// maxPeople is how many clients of people are kept at a time.
const maxPeople = 500

// AsPerson gives the cluster as a person, with the groups that Keelson knows the person to be in: what is written through it is what the
// person may do, and the audit log of the cluster names the person.
func (c *Cluster) AsPerson(name string, groups []string) (*User, error) {
	if name == "" {
		return nil, fmt.Errorf("a person without a name has no rights")
	}
	groups = slices.Clone(groups)
	slices.Sort(groups)
	key := "person " + name + "\x00" + strings.Join(groups, "\x00")
	c.mu.Lock()
	defer c.mu.Unlock()
	if u, ok := c.users[key]; ok {
		return u, nil
	}
	config := rest.CopyConfig(c.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: name, Groups: append(groups, "system:authenticated")}
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make client for %s: %w", name, err)
	}
	u, err := c.newUser(name, config, httpClient)
	if err != nil {
		return nil, err
	}
	people := 0
	for k := range c.users {
		if strings.HasPrefix(k, "person ") {
			people++
		}
	}
	if people >= maxPeople {
		for k := range c.users {
			if strings.HasPrefix(k, "person ") {
				delete(c.users, k)
				break
			}
		}
	}
	c.users[key] = u
	return u, nil
}

// Reviewer asks a cluster's authorizer about others.
type Reviewer struct {
	reviews authclient.SubjectAccessReviewInterface
}

// NewReviewer makes one. Whoever config is needs the right to create subjectaccessreviews.authorization.k8s.io.
func NewReviewer(config *rest.Config) (*Reviewer, error) {
	c, err := authclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make authorization client: %w", err)
	}
	return &Reviewer{c.SubjectAccessReviews()}, nil
}

// May tells whether a person may do a verb, and why not. The verb and the resource need not be any that the cluster knows.
func (r *Reviewer) May(ctx context.Context, name string, groups []string, ask authv1.ResourceAttributes) (allowed bool, why string, err error) {
	res, err := r.reviews.Create(ctx, &authv1.SubjectAccessReview{
		Spec: authv1.SubjectAccessReviewSpec{User: name, Groups: append(slices.Clone(groups), "system:authenticated"), ResourceAttributes: &ask},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, "", err
	}
	return res.Status.Allowed && !res.Status.Denied, res.Status.Reason, nil
}
