package kube

import (
	"context"
	"fmt"
	"slices"

	authv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
)

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
