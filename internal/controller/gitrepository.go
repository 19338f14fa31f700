package controller

import (
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

// gitRepositories follow Git repositories.
type gitRepositories = declaredSources[*sourcev1.GitRepository]

func gitRepositoryForm(now func() time.Time) sourceForm[*sourcev1.GitRepository] {
	return sourceForm[*sourcev1.GitRepository]{
		kind:  sourcev1.GitRepositoryKind,
		empty: func() *sourcev1.GitRepository { return &sourcev1.GitRepository{} },
		read:  dialect.GitRepository,
		status: func(obj *sourcev1.GitRepository, out delivery.Outcome, art dialect.Artifact) {
			obj.Status = dialect.GitRepositoryStatus(obj.Status, obj, out, art, now())
		},
		stored: "stored artifact for revision '%s'", failed: sourcev1.GitOperationFailedReason,
	}
}

// ociRepositories follow OCI artifacts.
type ociRepositories = declaredSources[*sourcev1.OCIRepository]

func ociRepositoryForm(now func() time.Time) sourceForm[*sourcev1.OCIRepository] {
	return sourceForm[*sourcev1.OCIRepository]{
		kind:  sourcev1.OCIRepositoryKind,
		empty: func() *sourcev1.OCIRepository { return &sourcev1.OCIRepository{} },
		read:  dialect.OCIRepository,
		status: func(obj *sourcev1.OCIRepository, out delivery.Outcome, art dialect.Artifact) {
			obj.Status = dialect.OCIRepositoryStatus(obj, out, art, now())
		},
		stored: "stored artifact for digest '%s'", failed: sourcev1.OCIPullFailedReason,
	}
}

// helmRepositories follow the indexes of Helm repositories.
type helmRepositories = declaredSources[*sourcev1.HelmRepository]

func helmRepositoryForm(now func() time.Time) sourceForm[*sourcev1.HelmRepository] {
	return sourceForm[*sourcev1.HelmRepository]{
		kind:  sourcev1.HelmRepositoryKind,
		empty: func() *sourcev1.HelmRepository { return &sourcev1.HelmRepository{} },
		read:  dialect.HelmRepository,
		status: func(obj *sourcev1.HelmRepository, out delivery.Outcome, art dialect.Artifact) {
			obj.Status = dialect.HelmRepositoryStatus(obj, out, art, now())
		},
		stored: "stored artifact: revision '%s'", failed: sourcev1.IndexationFailedReason,
		static: func(obj *sourcev1.HelmRepository, src delivery.Source) bool {
			if dialect.IsStatic(obj) && !src.Suspend {
				obj.Status = sourcev1.HelmRepositoryStatus{}
			}
			return dialect.IsStatic(obj)
		},
	}
}
