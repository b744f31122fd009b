module overload/front

go 1.24
