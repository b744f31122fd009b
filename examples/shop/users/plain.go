//go:build !full

package main

import (
	"context"
	"net/http"
	"slices"
)

// service keeps three users in memory.
func service(context.Context) (http.Handler, func(), error) {
	users := memory{
		{ID: "1", Name: "Ada", Favourite: "tea"},
		{ID: "2", Name: "Grace", Favourite: "coffee"},
		{ID: "3", Name: "Linus", Favourite: "tea"},
	}
	return logged(routes(users)), func() {}, nil
}

type memory []user

func (m memory) list(context.Context) ([]user, error) { return m, nil }

func (m memory) get(_ context.Context, id string) (user, error) {
	index := slices.IndexFunc(m, func(u user) bool { return u.ID == id })
	if index < 0 {
		return user{}, errNobody
	}
	return m[index], nil
}

func (m memory) healthy(context.Context) error { return nil }
