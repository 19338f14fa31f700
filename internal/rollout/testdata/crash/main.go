// Command crash is the program in the image of the tests: it says something and fails.
package main

import (
	"fmt"
	"os"
)

func main() {
	for i := range 30 {
		fmt.Printf("line %d\n", i)
	}
	fmt.Println("\x1b[31mcannot open the database\x1b[0m at postgres://shop:hunter2@db/shop")
	os.Exit(3)
}
