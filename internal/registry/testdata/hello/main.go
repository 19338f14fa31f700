// Command hello is the program in the image of the tests.
package main

import "fmt"

func main() { fmt.Println("hello from an image") }
