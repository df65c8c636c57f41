# Nevo's cereal data: plain logit demand, product effects taken off outcome, price and instruments; one step.
#   Rscript --vanilla nevo.R nevo.csv > nevo_output.csv
folder <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
source(file.path(folder, "gmm.R"))
data <- read.csv(commandArgs(trailingOnly = TRUE)[1])
within <- function(v) v - ave(v, data$product_ids)
X <- cbind(prices = within(data$prices))
raw <- as.matrix(data[paste0("demand_instruments", 0:19)])
Z <- apply(raw, 2, within)
y <- log(data$shares) - log(1 - ave(data$shares, data$market_ids, FUN = sum))
cat("name,value\n")

fit <- gmm(within(y), X, Z, Z)
say("b", fit$b)
say("robust", sandwich(fit, robust(fit, Z)))
say("unadjusted", sandwich(fit, unadjusted(fit, Z)))
say("NQ", c(stat = nrow(Z) * criterion(fit, Z)))

# instruments alone: the residuals keep the effects of the products
trap <- gmm(y, cbind(prices = data$prices), Z, Z)
say("trap b", trap$b)
say("trap robust", sandwich(trap, robust(trap, Z)))
