"""What languages in Latin letters are told by: short words that every text has, words of school exercises, and letters.

A word that stands in several lists counts for each of them, the less the more they are. Lists are short on purpose: a
text of one sentence has a few of these words, and a formula has none.
"""

from __future__ import annotations

WORDS: dict[str, str] = {
    "en": "the of and to is in that it was for are with as his they be at this have from or had by but what some we "
    "can "
    "out other were all there when your how said an each which she do their if will up about many then them so would "
    "these her has him time could no my than been its who now did get may if on find value number many does let "
    "following answer solve compute evaluate simplify calculate determine given shown figure below between how where "
    "because after before not you you're most both into per cost costs much total equal equals please choose image "
    "picture question statement correct expression equation function area length angle triangle sum there common "
    "fraction integer express convert factor expand graph suppose least greatest simplest positive real such",
    "fr": "le la les des du un une et est en que qui dans pour pas sur au aux avec son sa ses ce cette il elle nous "
    "vous "
    "ils sont plus par mais ou où leur quel quelle quels quelles comme soit être fait deux ces ont était si très "
    "calculer déterminer trouver résoudre nombre valeur suivante suivant combien montrer donc alors entre réponse "
    "lequel laquelle image sont cela peut chaque",
    "de": "der die das und ist von den mit sich auf für nicht ein eine einer eines einem einen dem des im zu es wie "
    "wird "
    "sind auch als an nach bei aus hat oder wenn war werden kann wir sie ich aber um noch nur über so zum zur durch "
    "berechne bestimme finde wert zahl welche welcher welches wieviel viele folgende gegeben ergebnis zwischen "
    "lösung beträgt gilt",
    "es": "el la los las de que y en un una es por con para del se no su al lo como más pero sus le ya o este sí "
    "porque "
    "esta entre cuando muy sin sobre también me hasta hay donde quien desde todo nos durante todos uno les ni contra "
    "cuál cuáles cuántos cuántas cuánto calcular hallar encuentra determine resuelve número valor siguiente "
    "siguientes si son tiene respuesta cada",
    "pt": "o a os as de que e do da dos das em um uma para com não no na nos nas por mais se como mas ao ele foi à "
    "seu sua "
    "ou quando muito já também só pelo pela até isso ela entre depois sem mesmo aos seus quem são é está qual quais "
    "quantos quantas quanto calcule determine encontre número valor seguinte seguintes resolva tem resposta cada",
    "it": "il lo la i gli le di che e è un una in per con non del della dei delle degli al alla da dal dalla nel "
    "nella si "
    "come più ma sono anche questo questa se ha o su sua suo loro quando quale quali quanto quanti quante dove chi "
    "tra calcola calcolare trova trovare determinare numero valore seguente seguenti risolvere ogni cosa",
    "nl": "de het een en van is in dat op te met voor niet zijn er aan die om ook als bij of uit naar dan nog wel "
    "wordt "
    "hebben heeft worden deze door kan maar wat welke hoeveel hoe waar bereken bepaal vind waarde getal volgende "
    "tussen antwoord elke haar hij wij zij geen",
    "ca": "el la els les de que i en un una és per amb no del dels al als es com més però seu seva quan també aquest "
    "aquesta són quin quina quins quines quants quantes nombre següent calcula troba entre si hi ha",
    "sv": "och att det som en är av för på med den inte ett till har de om var men han hon sig från vi så kan när år "
    "under "
    "ut också efter eller hur många vad vilken vilket vilka beräkna bestäm värdet talet följande mellan ska svaret",
    "da": "og at det som en er af for på med den ikke et til har de om var men han hun sig fra vi så kan når år "
    "under ud "
    "også efter eller hvor mange hvad hvilken hvilket hvilke beregn bestem værdien tallet følgende mellem skal svaret",
    "no": "og at det som en er av for på med den ikke et til har de om var men han hun seg fra vi så kan når år "
    "under ut "
    "også etter eller hvor mange hva hvilken hvilket hvilke beregn bestem verdien tallet følgende mellom skal svaret",
    "fi": "ja on ei se että hän oli joka mutta kun niin myös ovat tai jos kuin sen hänen mitä mikä kuinka monta laske "
    "määritä luku arvo seuraava seuraavista välillä voi siitä ole tämä ne jotka vain mukaan kaikki yhtälö ratkaise",
    "pl": "i w na z się nie że do jest to o jak po co tak za od ale czy przez dla jego był już tylko ich może są oraz "
    "które który która ile jaki jaka jakie oblicz znajdź wyznacz liczba liczby liczb wartość następujących między "
    "równa każdy przy ze",
    "cs": "a v na se je že s z do o k i to jako za by ale pro jeho jsou po tak co ve si jsem byl který která které "
    "kolik "
    "jaký jaká jaké vypočítejte najděte určete číslo hodnota následující mezi nebo když už není podle každý",
    "sk": "a v na sa je že s z do o k i to ako za by ale pre jeho sú po tak čo vo si som bol ktorý ktorá ktoré koľko "
    "aký "
    "aká aké vypočítajte nájdite určte číslo hodnota nasledujúci medzi alebo keď už nie podľa každý",
    "hu": "a az és hogy nem is egy van meg volt ez csak de már még el mint ha vagy azt ki lesz mert nagyon mennyi hány "
    "melyik milyen számítsa határozza szám értéke következő között minden pedig legyen mekkora oldja",
    "ro": "și în de la a cu pe nu o un este care se din că pentru mai sau ce au fost prin sunt după dar lui ale său sa "
    "câte câți cât care calculați determinați aflați numărul valoarea următoarele între dacă fiecare această acest",
    "tr": "ve bir bu da de için ile çok ne olarak daha en gibi kadar olan mi mı var ama sonra her değil ise hangi "
    "hangisi "
    "kaç kaçtır nedir bul bulunuz hesaplayın sayı sayısı değeri aşağıdaki arasında göre olduğuna şekilde buna",
    "vi": "và của là có cho các được trong một không với những người này đã khi để từ cũng nhiều trên đến về như thì "
    "hay "
    "bao nhiêu tính tìm giá trị số sau giữa hình nào biết bằng đó",
    "id": "yang dan di dari ini itu dengan untuk pada adalah tidak dalam akan ke juga atau oleh ada karena lebih telah "
    "sebagai saat bahwa dapat jika berapa berapakah hitung tentukan nilai bilangan berikut antara jumlah sebuah setiap",
}  # fmt: skip

LETTERS: dict[str, str] = {
    "ß": "de", "ä": "de sv fi", "ö": "de sv fi hu tr", "ü": "de tr hu", "ñ": "es", "¿": "es", "¡": "es", "ã": "pt",
    "õ": "pt", "ç": "fr pt tr ca", "è": "fr it ca", "ê": "fr pt vi", "ë": "fr nl", "î": "fr ro", "ô": "fr vi",
    "œ": "fr",
    "à": "fr it ca vi", "ù": "fr it", "ò": "it ca", "ì": "it", "å": "sv da no", "ø": "da no", "æ": "da no", "ł": "pl",
    "ż": "pl", "ś": "pl", "ź": "pl", "ą": "pl", "ę": "pl", "ć": "pl", "ń": "pl", "ř": "cs", "ů": "cs", "ě": "cs",
    "č": "cs sk", "š": "cs sk", "ž": "cs sk", "ď": "cs sk", "ť": "cs sk", "ľ": "sk", "ĺ": "sk", "ŕ": "sk", "ő": "hu",
    "ű": "hu", "ğ": "tr", "ı": "tr", "ş": "tr", "ș": "ro", "ț": "ro", "ă": "ro vi", "ţ": "ro", "đ": "vi", "ơ": "vi",
    "ư": "vi", "·": "ca",
}  # fmt: skip
